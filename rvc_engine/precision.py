"""In which number format the nets compute: chosen, opened as autocast, and scaled where float16 asks for it.

Weights, gradients and optimizers are float32 always. Autocast holds for the nets alone; spectra, losses, the latent's
sampling, the sine source, the last layers and weight norm stay in float32: their small differences are what is learnt
from.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from rvc_engine.config import PrecisionChoice

FormatName = Literal["fp32", "bf16", "fp16"]
NATIVE_BF16 = (8, 0)
"""The compute capability (Ampere) from which a GPU multiplies bfloat16 in hardware."""
LEAST_SCALE = 1.0
"""A float16 scale below this has been halved at least 17 times in a row: the losses are lost, not the step."""

_DTYPES: dict[FormatName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The format of the nets' matrix products and convolutions on one kind of device."""

    name: FormatName = "fp32"
    device_type: str = "cpu"

    @classmethod
    def choose(cls, choice: PrecisionChoice, device: torch.device) -> "Precision":
        """What a config's word comes to on a device: auto is bf16 where it is native, else fp16, and fp32 on a CPU."""
        if choice != "auto":
            return cls(choice, device.type)
        if device.type != "cuda":
            return cls("fp32", device.type)
        return cls("bf16" if torch.cuda.get_device_capability(device) >= NATIVE_BF16 else "fp16", device.type)

    def full(self) -> "Precision":
        """The safest format on the same device."""
        return Precision("fp32", self.device_type)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a net's pass; its outputs may be of the short format."""
        dtype = _DTYPES.get(self.name)
        return nullcontext() if dtype is None else torch.autocast(self.device_type, dtype)

    def scaler(self) -> GradScaler:
        """A gradient scaler: at work for float16, whose small gradients vanish otherwise, and idle for the others."""
        return GradScaler(self.device_type, enabled=self.name == "fp16")


def use_tf32(allowed: bool) -> None:
    """Whether CUDA may round the inputs of float32 products and convolutions to 10 bits of mantissa."""
    mode = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]


def in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's output in float32, inside autocast too: for last layers, whose rounding the losses would see."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return layer(lengthened(x))  # type: ignore[no-any-return]


def lengthened(x: Tensor) -> Tensor:
    """Back to float32 what autocast made shorter; longer formats stay."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
