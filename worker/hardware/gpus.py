"""Periodic readings of the worker's GPUs for the server to show.

They are made on a thread of their own: a driver that hangs blocks neither the heartbeat nor the job.
"""

import threading
from collections.abc import Sequence
from typing import Any

import pynvml
import structlog

from rvc_train.schemas.workers import GpuPublic
from worker.gateway.errors import Unavailable
from worker.gateway.interface import RegisteredWorker

logger = structlog.get_logger(__name__)


class GpuMonitor:
    """Monitor that reports a reading every `seconds`; without NVIDIA's driver it does nothing."""

    def __init__(self, worker: RegisteredWorker, gpus: Sequence[str], seconds: float) -> None:
        """`gpus`: indices in the order of the bus, or UUIDs, as CUDA_VISIBLE_DEVICES names them."""
        self._worker, self._gpus, self._seconds = worker, gpus, seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        """Start the thread, unless there are no GPUs."""
        if self._gpus:
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            logger.debug("the GPUs cannot be read", reason=str(error))
            return
        try:
            while not self._is_over.is_set():
                self._sample()
                self._is_over.wait(self._seconds)
        finally:
            pynvml.nvmlShutdown()

    def _sample(self) -> None:
        try:
            self._worker.report_gpus([read_gpu(gpu) for gpu in self._gpus])
        except (
            pynvml.NVMLError,
            OSError,
            Unavailable,
        ) as error:  # a driver under update or a full disk: the next reading may work
            logger.debug("the GPUs were not read", reason=str(error))


def read_gpu(which: str) -> GpuPublic:
    """Read name, use and memory of one GPU. Raises NVMLError for a GPU that the driver does not have."""
    handle = (
        pynvml.nvmlDeviceGetHandleByIndex(int(which)) if which.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(which)
    )
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuPublic(
        name=pynvml.nvmlDeviceGetName(handle),
        use=_use(handle),
        memory_used_bytes=memory.used,
        memory_total_bytes=memory.total,
    )


def _use(handle: Any) -> float | None:
    """Share of the last sampling interval in which the GPU computed, 0..1; None for a MIG partition."""
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return None


def free_memory(which: str) -> int | None:
    """Free bytes of a GPU by index or UUID; None without a reading of NVIDIA's driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        gpu = read_gpu(which)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return gpu.memory_total_bytes - gpu.memory_used_bytes
