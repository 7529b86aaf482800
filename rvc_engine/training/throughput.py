"""Training throughput in clips a second, and model FLOPs utilisation (MFU)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rvc_engine.compute.accelerators import synchronize
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.precision import Precision

SETTLED_SECONDS = 5.0
"""Training time before peak FLOPs are measured: the first steps are slow, and short runs need no measurement."""
MEASURING_SECONDS = 0.3
EMA_WEIGHT = 0.2
"""Weight of the newest step in the moving averages."""
_MATMUL_SIZES = {"cuda": 8192, "cpu": 1024}
"""Rows of the matrices that peak FLOPs are measured with: enough to use the whole device."""


class Throughput:
    """Exponential moving averages over the steps of one attempt."""

    def __init__(self, device: torch.device, precision: Precision, num_devices: int = 1) -> None:
        """`num_devices`: devices that train together, each at the same rate."""
        self._device, self._precision, self._num_devices = device, precision, num_devices
        self.step_seconds: float | None = None
        self._clip_seconds: float | None = None
        self._seconds = 0.0
        self._clip_flops: float | None = None
        self._peak_flops: float | None = None
        self._is_measured = False

    def add(self, clips: int, seconds: float) -> None:
        """Record a step on `clips` clips that took `seconds`."""
        self._seconds += seconds
        self.step_seconds = _ema(self.step_seconds, seconds)
        self._clip_seconds = _ema(self._clip_seconds, seconds / clips)

    @contextmanager
    def count_flops(self, clips: int) -> Iterator[None]:
        """Count the FLOPs of one eager step on `clips` clips of this device. Later calls count nothing."""
        # On CUDA at once: later steps are graphs, whose operations are hidden.
        is_due = self._device.type == "cuda" or self._seconds >= SETTLED_SECONDS
        if self._clip_flops is not None or clips == 0 or not is_due:
            yield
            return
        with _FlopCounter() as counter:  # type: ignore[no-untyped-call]
            yield
        self._clip_flops = counter.flops / clips

    @property
    def total_seconds(self) -> float:
        """Time of all recorded steps."""
        return self._seconds

    @property
    def clips_per_second(self) -> float | None:
        """Moving average; None before the first step."""
        return 1 / self._clip_seconds if self._clip_seconds else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: FLOPs a second divided by those of a large matrix product; None while not measured.

        The first call after SETTLED_SECONDS of training measures the latter, in MEASURING_SECONDS.
        """
        if not self._is_measured and self._seconds >= SETTLED_SECONDS:
            self._is_measured = True
            self._peak_flops = peak_matmul_flops(self._device, self._precision)
        if self._peak_flops is None or self._clip_flops is None or self.clips_per_second is None:
            return None
        return self.clips_per_second * self._clip_flops / (self._peak_flops * self._num_devices)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics for a step's event; none before MFU is measured."""
        mfu = self.mfu
        if mfu is None or self.clips_per_second is None:
            return {}
        return {"speed/clips_per_second": self.clips_per_second, "speed/machine_share": mfu}


def _ema(old: float | None, new: float) -> float:
    return new if old is None else (1 - EMA_WEIGHT) * old + EMA_WEIGHT * new


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of matrix products and convolutions, forward and backward."""

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        return out


def peak_matmul_flops(device: torch.device, precision: Precision) -> float | None:
    """FLOPs a second of a large matrix product in this format; None where memory is short for it."""
    size = _MATMUL_SIZES.get(device.type, 1024)
    try:
        matrix = torch.ones(size, size, device=device, dtype=precision.dtype or torch.float32)
        product = torch.empty_like(matrix)
        best, until = float("inf"), time.monotonic() + MEASURING_SECONDS
        while time.monotonic() < until:
            best = min(best, _matmul_seconds(matrix, product))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    return float(2 * size**3 / best)


def _matmul_seconds(matrix: torch.Tensor, product: torch.Tensor) -> float:
    synchronize(matrix.device)
    started = time.perf_counter()
    torch.mm(matrix, matrix, out=product)
    synchronize(matrix.device)
    return time.perf_counter() - started
