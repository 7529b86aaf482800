"""Number format of the models: chosen, applied as autocast, with a gradient scaler for float16.

Weights, gradients and optimizers are float32 always. Autocast holds for the nets alone; spectra, losses, the latent's
sampling, the sine source, the last layers and weight norm stay in float32: their small differences are what is learnt
from.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from rvc_engine.config import PrecisionChoice

FormatName = Literal["fp32", "bf16", "fp16"]
NATIVE_BF16 = (8, 0)
"""The compute capability (Ampere) from which a GPU multiplies bfloat16 in hardware."""
_NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
MIN_LOSS_SCALE = 1.0
"""A float16 scale below this has been halved at least 17 times in a row: the losses are lost, not the step."""

_DTYPES: dict[FormatName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The format of the nets' matrix products and convolutions on one kind of device."""

    name: FormatName = "fp32"
    device_type: str = "cpu"

    @classmethod
    def choose(cls, choice: PrecisionChoice, device: torch.device) -> "Precision":
        """What a config's word comes to on a device: auto is bf16 where it is native, else fp16; fp32 on other CPUs."""
        if choice != "auto":
            return cls(choice, device.type)
        if device.type != "cuda":
            return cls("bf16" if cpu_supports_bf16() else "fp32", device.type)
        return cls("bf16" if torch.cuda.get_device_capability(device) >= NATIVE_BF16 else "fp16", device.type)

    def fp32(self) -> "Precision":
        """The safest format on the same device."""
        return Precision("fp32", self.device_type)

    @property
    def dtype(self) -> torch.dtype | None:
        """The 16-bit format; None for float32."""
        return _DTYPES.get(self.name)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a net's pass; its outputs may be of the 16-bit format."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, self.dtype)

    def scaler(self) -> GradScaler:
        """A gradient scaler: at work for float16, whose small gradients vanish otherwise, and idle for the others."""
        return GradScaler(self.device_type, enabled=self.name == "fp16")


def cpu_supports_bf16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16, and PyTorch's library for convolutions uses them.

    AVX-512 or AMX on x86, BF16 on Arm. Others would only emulate it, slower than float32.
    """
    return _onednn_supports_bf16() and bool(_NATIVE_BF16_FLAGS & _cpu_flags())


def _onednn_supports_bf16() -> bool:
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _cpu_flags() -> frozenset[str]:
    """What the system says of the CPU, or where it says nothing, what PyTorch found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset({"avx512_bf16"} if torch.cpu._is_avx512_bf16_supported() else ())
    named = (line.partition(":") for line in lines)
    return frozenset(
        word for name, _, words in named if name.strip() in {"flags", "Features"} for word in words.split()
    )


def use_tf32(allowed: bool) -> None:
    """Whether CUDA may round the inputs of float32 products and convolutions to 10 bits of mantissa."""
    mode = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]


def run_fp32(layer: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """A layer's output in float32, inside autocast too: for layers whose rounding changes the losses."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x, *others)
    with torch.autocast(x.device.type, enabled=False):
        return layer(to_fp32(x), *others)


def run_fp32_on_cpu(layer: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`run_fp32` on a CPU, where float32 costs twice as much; the layer as it is on a GPU (assumed to cost more)."""
    return run_fp32(layer, x, *others) if x.device.type == "cpu" else layer(x, *others)


def to_fp32(x: Tensor) -> Tensor:
    """16-bit tensors in float32; others stay."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
