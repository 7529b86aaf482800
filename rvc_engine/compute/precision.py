"""Number format of the models: its choice, autocast, and the gradient scaler for float16.

Weights, gradients and optimizer states are always float32, and autocast covers only the models. Spectra, losses, the
latent's sampling, the sine source, the last layers and weight norm stay in float32: small differences in them are what
the models learn from. The layers that autocast leaves in float32 are set in `models.backend`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.amp.grad_scaler import GradScaler

from rvc_engine.compute.accelerators import native_format
from rvc_engine.config import PrecisionChoice

FormatName = Literal["fp32", "bf16", "fp16"]
_NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
MIN_LOSS_SCALE = 1.0
"""A float16 loss scale below this has been halved at least 17 times in a row: the losses, not a step, are at fault."""

_DTYPES: dict[FormatName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Format of the models' matrix products and convolutions on one kind of device."""

    name: FormatName = "fp32"
    device_type: str = "cpu"

    @classmethod
    def choose(cls, choice: PrecisionChoice, device: torch.device) -> "Precision":
        """Format by the config's choice: auto is the one that the device trains well in."""
        if choice != "auto":
            return cls(choice, device.type)
        if device.type == "cpu":
            return cls("bf16" if cpu_supports_bf16() else "fp32", device.type)
        return cls(native_format(device), device.type)

    def fp32(self) -> "Precision":
        """The safest format on the same device."""
        return Precision("fp32", self.device_type)

    @property
    def dtype(self) -> torch.dtype | None:
        """The 16-bit format; None for float32."""
        return _DTYPES.get(self.name)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a model's forward pass; its outputs may be of the 16-bit format."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, self.dtype)

    def scaler(self) -> GradScaler:
        """Gradient scaler: enabled for float16, in which small gradients would vanish, and disabled for others."""
        return GradScaler(self.device_type, enabled=self.name == "fp16")


def cpu_supports_bf16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16 and oneDNN, PyTorch's library on CPUs, uses them.

    They are AVX-512 or AMX on x86, BF16 on Arm. Other CPUs only emulate it, slower than float32.
    """
    return _onednn_supports_bf16() and bool(_NATIVE_BF16_FLAGS & _cpu_flags())


def _onednn_supports_bf16() -> bool:
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _cpu_flags() -> frozenset[str]:
    """Features of the CPU that the system lists, or where it lists none, the one that PyTorch detects."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset({"avx512_bf16"} if torch.cpu._is_avx512_bf16_supported() else ())
    named = (line.partition(":") for line in lines)
    return frozenset(
        word for name, _, words in named if name.strip() in {"flags", "Features"} for word in words.split()
    )


def use_tf32(allowed: bool) -> None:
    """Let CUDA round the inputs of float32 products and convolutions to TF32 (10 bits of mantissa), or not."""
    mode = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
