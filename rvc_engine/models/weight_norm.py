"""Convolutions under weight norm, with the parameter names of published RVC weights: bias, weight_g, weight_v.

weight = weight_g * weight_v / |weight_v|, the norm taken over all dimensions but the first (Salimans and Kingma, 2016).
PyTorch's own helpers are either deprecated or name their parameters otherwise; a published file must never hold those.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.models.backend import BackendModule


class _WeightNorm(BackendModule, ABC):
    """A convolution with the bias and initial weight of a plain one: PyTorch's default initialisation."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d, keep_fp32: bool = False) -> None:
        """`keep_fp32` marks a layer that is sensitive to rounding."""
        super().__init__()
        assert conv.bias is not None
        weight = conv.weight.detach()
        self.bias = nn.Parameter(conv.bias.detach())
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.keep_fp32 = keep_fp32
        # Not of the class: a compiled function would be compiled again once the object has them.
        self._cached: Tensor | None = None
        self._cached_bias: Tensor | None = None

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


MAX_GROUP_ELEMENTS = 2**24
"""Weights that are computed as one matrix at most: a backward pass holds two more matrices of that size (64 MiB)."""


class CastConv1d(nn.Conv1d):
    """`nn.Conv1d` without weight norm, whose weight and bias `weights_at_once` casts with the others of its model."""

    _cached: Tensor | None = None
    _cached_bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T')."""
        if self._cached is None:
            return super().forward(x)
        return F.conv1d(x, self._cached, self._cached_bias, self.stride, self.padding, self.dilation, self.groups)


class _WeightsAtOnce(torch.autograd.Function):
    """Weights of layers under weight norm, and plain tensors, in one format: each way a few kernels for all of them.

    Weight norm is by row (by index of dim 0), so the rows of all layers that have the same length are computed as one
    matrix. Layers come sorted by that length.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, num_layers: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """weight_v of all layers, weight_g of all layers, plain tensors -> weights and plain tensors in `dtype`."""
        directions, plain = tensors[:num_layers], tensors[2 * num_layers :]
        weights, norms = [], []
        for group, gains in _groups(directions, tensors[num_layers : 2 * num_layers]):
            weight, norm = torch._weight_norm_interface(_rows(group), gains, 0)
            weights += _layers(weight, group)
            norms.append(norm)
        ctx.save_for_backward(*tensors[: 2 * num_layers], *norms)
        ctx.dtype = directions[0].dtype
        if dtype == ctx.dtype:
            return *weights, *plain
        cast = [torch.empty_like(tensor, dtype=dtype) for tensor in (*weights, *plain)]
        torch._foreach_copy_(cast, [*weights, *plain])
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors, in the format of the layers."""
        num_layers = len(ctx.needs_input_grad) - 2 - len(gradients)
        directions, gains = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers : 2 * num_layers]
        groups = _groups(directions, gains)
        matrices = [gains[0].new_empty(sum(map(len, group)), group[0][0].numel()) for group, _ in groups]
        plain = [torch.empty_like(gradient, dtype=ctx.dtype) for gradient in gradients[num_layers:]]
        parts = [part for matrix, (group, _) in zip(matrices, groups, strict=True) for part in _layers(matrix, group)]
        torch._foreach_copy_([*parts, *plain], gradients)
        del parts  # so that each matrix is freed once it is used
        of_directions: list[Tensor] = []
        of_gains: list[Tensor] = []
        for (group, gain), norm in zip(groups, ctx.saved_tensors[2 * num_layers :], strict=True):
            v, g = torch.ops.aten._weight_norm_interface_backward(matrices.pop(0), _rows(group), gain, norm, 0)
            of_directions += _layers(v, group)
            of_gains += [part.view(-1, *[1] * (v.ndim - 1)) for part, v in zip(_split(g, group), group, strict=True)]
        return None, None, *of_directions, *of_gains, *plain


def _groups(directions: Sequence[Tensor], gains: Sequence[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
    """weight_v of layers with rows of one length, and all their weight_g (rows, 1)."""
    groups: list[list[Tensor]] = []
    for v in directions:
        is_alike = bool(groups) and groups[-1][0][0].numel() == v[0].numel()
        if is_alike and sum(each.numel() for each in groups[-1]) + v.numel() <= MAX_GROUP_ELEMENTS:
            groups[-1].append(v)
        else:
            groups.append([v])
    rows = torch.cat([gain.flatten() for gain in gains]).unsqueeze(1)
    return list(zip(groups, rows.split([sum(map(len, group)) for group in groups]), strict=True))


def _rows(group: Sequence[Tensor]) -> Tensor:
    """The rows of layers below each other, (rows, length)."""
    return torch.cat([v.flatten(1) for v in group])


def _split(matrix: Tensor, group: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The part of each layer of a group in a matrix (rows, ...)."""
    return matrix.split([len(v) for v in group])


def _layers(matrix: Tensor, group: Sequence[Tensor]) -> list[Tensor]:
    """The layers of a group as views of a matrix (rows, length), in their own shapes."""
    return [part.view(v.shape) for part, v in zip(_split(matrix, group), group, strict=True)]


@contextmanager
def weights_at_once(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute all weights of a model's convolutions at once, in a 16-bit format with their biases or (None) their own.

    For one pass with gradients, or for several without gradients of the weights. Layer by layer, on a GPU, weight norm
    and autocast's copies would be a quarter of a step's kernels. The values are the same. No block of the model may be
    computed again in the backward pass.
    """
    layers = [module for module in model.modules() if isinstance(module, _WeightNorm)]
    layers.sort(key=lambda layer: layer.weight_v[0].numel())
    plain = [module for module in model.modules() if isinstance(module, CastConv1d)] if dtype else []
    weights = [*(layer.weight_v for layer in layers), *(layer.weight_g for layer in layers)]
    all_layers: list[_WeightNorm | CastConv1d] = [*layers, *plain]
    cast = [layer.weight for layer in plain] + ([layer.bias for layer in all_layers] if dtype else [])
    found = _WeightsAtOnce.apply(dtype or weights[0].dtype, len(layers), *weights, *cast)
    try:
        for layer, weight in zip(all_layers, found, strict=False):
            layer._cached = weight
        for layer, bias in zip(all_layers, found[len(all_layers) :], strict=False):
            layer._cached_bias = bias
        yield
    finally:
        for layer in all_layers:
            layer._cached = None
            layer._cached_bias = None
