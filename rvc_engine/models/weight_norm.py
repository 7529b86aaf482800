"""Convolutions under weight norm, with the parameter names of published RVC weights: bias, weight_g, weight_v.

weight = weight_g * weight_v / |weight_v|, the norm taken over all dimensions but the first (Salimans and Kingma, 2016).
PyTorch's own helpers are either deprecated or name their parameters otherwise; a published file must never hold those.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.models.cpu_convolution import (
    conv1d_channels_last,
    conv2d_periods,
    is_bf16_on_cpu,
    prefers_channels_last,
)


class _WeightNorm(nn.Module):
    """Takes bias and initial weight from a plain convolution, so that PyTorch's default initialisation holds."""

    keep_fp32 = False
    """Whether on a CPU it is called outside autocast, in float32, always."""
    _cached: Tensor | None = None

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d) -> None:
        super().__init__()
        assert conv.bias is not None
        weight = conv.weight.detach()
        self.bias = nn.Parameter(conv.bias.detach())
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True))
        self.weight_v = nn.Parameter(weight)

    def weight(self) -> Tensor:
        """The convolution's weight, of weight_v's shape; float32 inside autocast too, which does not know this."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0) if self._cached is None else self._cached


class WeightNormConv1d(_WeightNorm):
    """`nn.Conv1d` under weight norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T'), through a LeakyReLU of this slope if any."""
        weight, is_bf16 = self.weight(), is_bf16_on_cpu(x)
        if self.groups == 1 and (is_bf16 or prefers_channels_last(x, weight, self.dilation)):
            dtype = torch.bfloat16 if is_bf16 else x.dtype
            x = conv1d_channels_last(x, weight, self.bias, self.stride, self.padding, self.dilation, dtype)
        else:
            x = F.conv1d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return x if slope is None else F.leaky_relu(x, slope)


class WeightNormConv2d(_WeightNorm):
    """`nn.Conv2d` under weight norm with a (kernel_size, 1) kernel: along time, not across periods."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, (kernel_size, 1)))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """(B, in_channels, T, period) -> (B, out_channels, T', period), through a LeakyReLU of this slope if any."""
        if is_bf16_on_cpu(x):
            return conv2d_periods(x, self.weight(), self.bias, self.stride, self.padding, slope)
        x = F.conv2d(x, self.weight(), self.bias, (self.stride, 1), (self.padding, 0))
        return x if slope is None else F.leaky_relu(x, slope, inplace=True)


class WeightNormConvTranspose1d(_WeightNorm):
    """`nn.ConvTranspose1d` under weight norm (over the input channels, as PyTorch's dim 0 has it)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__(nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride, padding))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T * stride) for kernel - stride = 2 * padding."""
        return F.conv_transpose1d(x, self.weight(), self.bias, self.stride, self.padding)


@contextmanager
def cached_weights(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute the weights of a model's convolutions once, in a 16-bit format or (None) their own, for several passes.

    Layers with `keep_fp32` keep their own always. The weights get no gradients meanwhile; the passes' inputs do.
    """
    layers = [module for module in model.modules() if isinstance(module, _WeightNorm)]
    try:
        with torch.no_grad():
            for layer in layers:
                weight = layer.weight()
                is_on_cpu = weight.device.type == "cpu"
                wanted = None if layer.keep_fp32 and is_on_cpu else dtype
                is_last = wanted == torch.bfloat16 and weight.ndim == 4 and is_on_cpu
                layout = torch.channels_last if is_last else torch.preserve_format
                layer._cached = weight.to(wanted or weight.dtype, memory_format=layout)
        yield
    finally:
        for layer in layers:
            layer._cached = None
