"""Convolutions under weight norm, with the parameter names of published RVC weights: bias, weight_g, weight_v.

weight = weight_g * weight_v / |weight_v|, the norm taken over all dimensions but the first (Salimans and Kingma, 2016).
PyTorch's own helpers are either deprecated or name their parameters otherwise; a published file must never hold those.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.models.backend import BackendModule


class _WeightNorm(BackendModule, ABC):
    """A convolution with the bias and initial weight of a plain one: PyTorch's default initialisation."""

    _cached: Tensor | None = None
    _cached_bias: Tensor | None = None

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d, keep_fp32: bool = False) -> None:
        """`keep_fp32` marks a layer that is sensitive to rounding."""
        super().__init__()
        assert conv.bias is not None
        weight = conv.weight.detach()
        self.bias = nn.Parameter(conv.bias.detach())
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.keep_fp32 = keep_fp32

    def weight(self) -> Tensor:
        """Weight of the convolution, of weight_v's shape; float32 inside autocast too, which ignores this operator."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0) if self._cached is None else self._cached

    def cast_bias(self) -> Tensor:
        """Bias of the convolution, in the format of a cached weight."""
        return self.bias if self._cached_bias is None else self._cached_bias

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Convolve x, then a LeakyReLU unless slope is None. Shapes are those of the plain convolution."""
        if self.keep_fp32:
            return self.backend.run_sensitive(self._convolve, x, slope)
        return self._convolve(x, slope)

    @abstractmethod
    def _convolve(self, x: Tensor, slope: float | None) -> Tensor:
        """See `forward`, in the format that is set."""


class WeightNormConv1d(_WeightNorm):
    """`nn.Conv1d` under weight norm: (B, in_channels, T) -> (B, out_channels, T')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        keep_fp32: bool = False,
    ) -> None:
        super().__init__(nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups), keep_fp32)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def _convolve(self, x: Tensor, slope: float | None) -> Tensor:
        y = self.backend.conv1d(
            x, self.weight(), self.cast_bias(), self.stride, self.padding, self.dilation, self.groups
        )
        return y if slope is None else F.leaky_relu(y, slope)


class WeightNormConv2d(_WeightNorm):
    """`nn.Conv2d` under weight norm with a (kernel_size, 1) kernel, along time and not across periods.

    (B, in_channels, T, period) -> (B, out_channels, T', period).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        keep_fp32: bool = False,
    ) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, (kernel_size, 1)), keep_fp32)
        self.stride, self.padding = stride, padding

    def _convolve(self, x: Tensor, slope: float | None) -> Tensor:
        return self.backend.conv2d(x, self.weight(), self.cast_bias(), self.stride, self.padding, slope)


class WeightNormConvTranspose1d(_WeightNorm):
    """`nn.ConvTranspose1d` under weight norm over the input channels, which are PyTorch's dim 0.

    (B, in_channels, T) -> (B, out_channels, T * stride) for kernel_size - stride = 2 * padding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__(nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride, padding))
        self.stride, self.padding = stride, padding

    def _convolve(self, x: Tensor, slope: float | None) -> Tensor:
        y = F.conv_transpose1d(x, self.weight(), self.cast_bias(), self.stride, self.padding)
        return y if slope is None else F.leaky_relu(y, slope)


@contextmanager
def cached_weights(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute the weights of a model's convolutions once, in a 16-bit format or (None) their own, for several passes.

    The weights get no gradients meanwhile; the passes' inputs do.
    """
    layers = [module for module in model.modules() if isinstance(module, _WeightNorm)]
    try:
        with torch.no_grad():
            for layer in layers:
                layer._cached = layer.backend.cached_weight(layer.weight(), dtype, layer.keep_fp32)
                if layer._cached.dtype == dtype:  # else autocast casts it in each pass
                    layer._cached_bias = layer.bias.to(dtype)
        yield
    finally:
        for layer in layers:
            layer._cached = layer._cached_bias = None


class _CastAll(torch.autograd.Function):
    """Tensors in a 16-bit format, and their gradients back in their own: each way a few kernels for all of them."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors in `dtype`."""
        ctx.dtype = tensors[0].dtype
        return tuple(_cast(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients in the format of the tensors."""
        return None, *_cast(gradients, ctx.dtype)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    cast = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(cast, tensors)
    return cast


@contextmanager
def cast_at_once(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Compute the weights of a model's convolutions, and cast them and the biases to a 16-bit format all at once.

    For one pass with gradients, inside autocast, which would cast each by itself: on a GPU a sixth of a step's
    kernels. The values are the same. No block of the model may be computed again in the backward pass.
    """
    layers = [module for module in model.modules() if isinstance(module, _WeightNorm)]
    cast = _CastAll.apply(dtype, *(layer.weight() for layer in layers), *(layer.bias for layer in layers))
    try:
        for layer, weight, bias in zip(layers, cast[: len(layers)], cast[len(layers) :], strict=True):
            layer._cached, layer._cached_bias = weight, bias
        yield
    finally:
        for layer in layers:
            layer._cached = layer._cached_bias = None
