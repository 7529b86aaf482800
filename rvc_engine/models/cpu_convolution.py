"""Convolutions on a CPU, laid out as oneDNN computes them fastest: channels last, then time.

With channels last every pass of a narrow or dilated convolution comes near the processor's limit, in bfloat16 and, to a
lesser degree, in float32; with time innermost the period discriminators' do too, in bfloat16. Weight gradients of wide
convolutions over few frames are a matrix product instead: oneDNN's own takes up to three times as long. The numbers are
those of PyTorch's own layouts, but for the order of sums.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

NARROW_CHANNELS = range(32, 129)
"""For float32 convolutions of so many channels, channels last is faster: by 10 to 40 %, the most for the fewest."""

_aten_convolution = torch.ops.aten.convolution
_aten_convolution_backward = torch.ops.aten.convolution_backward


def is_bf16_on_cpu(x: Tensor) -> bool:
    """Whether autocast has convolutions of this tensor computed in bfloat16 on a CPU."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


def prefers_channels_last(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether a 1-D convolution in float32 is faster with channels last: narrow ones are with oneDNN and AVX.

    Undilated ones only with AVX-512: without it oneDNN has a faster algorithm for them that takes the other layout.
    An exported graph, which others run, has PyTorch's own call.
    """
    if x.device.type != "cpu" or not (x.dtype == weight.dtype == torch.float32) or torch.compiler.is_exporting():
        return False
    is_narrow = weight.shape[0] in NARROW_CHANNELS and weight.shape[1] in NARROW_CHANNELS
    if not is_narrow or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() in (("AVX2", "AVX512") if dilation > 1 else ("AVX512",))


def conv1d_channels_last(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, dilation: int, dtype: torch.dtype
) -> Tensor:
    """`F.conv1d` of x (B, C, T) in a format, or autocast's -> (B, C', T'), both channels last in memory."""
    x = x.to(dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight.unsqueeze(2), bias, (1, stride), (0, padding), (1, dilation)).squeeze(2)


def conv2d_periods(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, slope: float | None) -> Tensor:
    """`F.conv2d` of x (B, C, T, period) with a weight (C', C, K, 1) in bfloat16, then a LeakyReLU unless slope is None.

    The result (B, C', T', period) lies in memory as (B, period, T', C').
    """
    return PeriodConvolution.apply(x, weight, bias, stride, padding, slope, torch.bfloat16)


class PeriodConvolution(torch.autograd.Function):
    """Works on (B, C, period, T): the convolution runs along the last dimension. Takes any format, to be checked in."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: int,
        padding: int,
        slope: float | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """See `conv2d_periods`."""
        x = x.to(dtype).transpose(2, 3).contiguous(memory_format=torch.channels_last)
        cast_weight = weight.transpose(2, 3).to(dtype, memory_format=torch.channels_last)
        ctx.options = ((1, stride), (0, padding), (1, 1), False, (0, 0), 1)
        y = _aten_convolution(x, cast_weight, bias.to(dtype), *ctx.options)
        if slope is not None:
            y = F.leaky_relu_(y, slope)
        ctx.slope, ctx.parameters_dtype = slope, weight.dtype
        ctx.save_for_backward(x, cast_weight, y if slope is not None else None)
        return y.transpose(2, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, in the short format, and of weight and bias in theirs."""
        x, weight, y = ctx.saved_tensors
        gradient = gradients[0].transpose(2, 3).contiguous(memory_format=torch.channels_last)
        if y is not None:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = _aten_convolution_backward(gradient, x, weight, None, *ctx.options, (True, False, False))[
                0
            ].transpose(2, 3)
        if needs_weight:
            (_, stride), (_, padding) = ctx.options[:2]
            grad_weight = weight_gradient(x, gradient, weight.shape[3], stride, padding)
            grad_weight = grad_weight.transpose(2, 3).to(ctx.parameters_dtype, memory_format=torch.contiguous_format)
        if needs_bias:
            grad_bias = gradient.sum((0, 2, 3), dtype=ctx.parameters_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def weight_gradient(x: Tensor, gradient: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Of a convolution along the last dimension: x (B, C, H, T), gradient (B, C', H, T') -> (C', C, 1, K).

    All windows of x, side by side in memory once padded, times the gradient: one matrix product.
    """
    batch, channels, height, _ = x.shape
    frames = gradient.shape[3]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding)).contiguous()
    by_clip, by_row, by_frame, _ = padded.stride()
    windows = padded.as_strided(
        (batch, height, frames, kernel_size * channels), (by_clip, by_row, stride * by_frame, 1)
    ).reshape(-1, kernel_size * channels)
    rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
    product = (rows.t() @ windows).view(-1, kernel_size, channels)
    return product.transpose(1, 2).unsqueeze(2)
