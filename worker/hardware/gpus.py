"""Looks now and then at what the worker's GPUs are doing, for those who watch.

On a thread of its own: a driver that hangs may take that thread, but neither the heartbeat nor the job.
"""

import threading
from collections.abc import Sequence
from typing import Any

import pynvml
import structlog

from rvc_train.schemas.workers import GpuPublic
from server.database.clock import utc_now
from server.storage.local import Storage
from server.workers.gpu_telemetry import delete_gpu_telemetry, write_gpu_telemetry

logger = structlog.get_logger(__name__)


class GpuMonitor:
    """Writes a reading every `seconds`, from start to stop. Does nothing on a machine without NVIDIA's driver."""

    def __init__(self, storage: Storage, worker_id: str, gpus: Sequence[str], seconds: float) -> None:
        """`gpus`: indices in the order of the bus, or UUIDs, as CUDA_VISIBLE_DEVICES names them."""
        self._storage, self._worker_id, self._gpus, self._seconds = storage, worker_id, gpus, seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        """Begin, unless there is nothing to look at."""
        if self._gpus:
            self._thread.start()

    def stop(self) -> None:
        """End, and forget the last reading."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        delete_gpu_telemetry(self._storage, utc_now(), self._worker_id)

    def _run(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            logger.debug("what the GPUs do is not known", reason=str(error))
            return
        try:
            while not self._is_over.is_set():
                self._sample()
                self._is_over.wait(self._seconds)
        finally:
            pynvml.nvmlShutdown()

    def _sample(self) -> None:
        try:
            write_gpu_telemetry(self._storage, self._worker_id, [read_gpu(gpu) for gpu in self._gpus], utc_now())
        except (pynvml.NVMLError, OSError) as error:  # a driver under update, a full disk: the next look may tell more
            logger.debug("what the GPUs do was not read", reason=str(error))


def read_gpu(which: str) -> GpuPublic:
    """What one GPU is doing now. Raises NVMLError when the driver does not know it."""
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
    """0..1: share of the last moment in which the GPU computed. None for a part of one (MIG): no driver tells."""
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:
        return None
