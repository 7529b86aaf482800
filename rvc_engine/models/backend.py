"""Layouts and number formats of the models' layers by device: the only place where they differ.

A layer's backend is chosen when the layer is built, and again when it is moved: `CpuBackend` on a CPU, and elsewhere
`Backend`, which is PyTorch's own calls. Results are the same but for the order of sums and, inside autocast, rounding.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

NARROW_CHANNELS = range(32, 129)
"""Numbers of channels for which a float32 convolution is 10 to 40 % faster with channels last, most for the fewest."""

_aten_convolution = torch.ops.aten.convolution
_aten_convolution_backward = torch.ops.aten.convolution_backward


def to_fp32(x: Tensor) -> Tensor:
    """16-bit tensors in float32; others unchanged."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def run_fp32(layer: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """Run a layer in float32, inside autocast too: for layers whose rounding changes the losses on every device."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x, *others)
    with torch.autocast(x.device.type, enabled=False):
        return layer(to_fp32(x), *others)


class Backend:
    """PyTorch's own calls, in the format that autocast gives them: for GPUs, and for graphs that other programs run.

    In bfloat16 the layers that are sensitive to rounding run in float32, as on a CPU: without that the gradients of G
    and D turn by up to 10 degrees. float16 has 8 times finer steps and does not need it (`benchmarks/RESULTS.md`).
    """

    def conv1d(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, dilation: int, groups: int
    ) -> Tensor:
        """`F.conv1d`: x (B, C, T) -> (B, C', T')."""
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, slope: float | None) -> Tensor:
        """`F.conv2d` with a weight (C', C, K, 1), then a LeakyReLU unless slope is None.

        x (B, C, T, period) -> (B, C', T', period).
        """
        y = F.conv2d(x, weight, bias, (stride, 1), (padding, 0))
        return y if slope is None else F.leaky_relu(y, slope, inplace=True)

    def run_sensitive(self, layer: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        """Run a layer that is sensitive to rounding: in float32 where autocast would round to bfloat16."""
        return run_fp32(layer, x, *others) if _computes_bf16(x.device.type) else layer(x, *others)

    def discriminator_input(self, wave: Tensor) -> Tensor:
        """A wave in the format of the first layers, which are sensitive, of all discriminators: cast once for all."""
        kind = wave.device.type
        is_16_bit = torch.is_autocast_enabled(kind) and not _computes_bf16(kind)
        return wave.to(torch.get_autocast_dtype(kind)) if is_16_bit else wave

    def residual_sum(self, x: Tensor) -> Tensor:
        """A tensor in the format that residuals are added to it in: float32 instead of bfloat16."""
        return x.float() if x.dtype == torch.bfloat16 else x

    def cached_weight(self, weight: Tensor, dtype: torch.dtype | None, keep_fp32: bool) -> Tensor:
        """A convolution's weight in a 16-bit format, or (None) its own, laid out for its passes.

        `keep_fp32` marks weights of layers that `run_sensitive` runs.
        """
        return weight if keep_fp32 and dtype == torch.bfloat16 else weight.to(dtype or weight.dtype)


class CpuBackend(Backend):
    """Convolutions laid out as oneDNN computes them fastest: channels last, then time; sensitive layers in float32.

    With channels last every pass of a narrow or dilated convolution comes near the processor's limit, in bfloat16 and,
    to a lesser degree, in float32; with time innermost the period discriminators' do too, in bfloat16. float32 costs
    twice as much as bfloat16.
    """

    def __init__(self, capability: str) -> None:
        """`capability` is the instruction set by PyTorch's name ("AVX2", "AVX512"), or "" without oneDNN."""
        self.capability = capability

    def conv1d(
        self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, dilation: int, groups: int
    ) -> Tensor:
        """See `Backend.conv1d`. The result is channels last in memory where that is faster."""
        if groups == 1 and _computes_bf16("cpu"):
            return conv1d_channels_last(x, weight, bias, stride, padding, dilation, torch.bfloat16)
        if groups == 1 and self.prefers_channels_last(x, weight, dilation):
            return conv1d_channels_last(x, weight, bias, stride, padding, dilation, x.dtype)
        return super().conv1d(x, weight, bias, stride, padding, dilation, groups)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, slope: float | None) -> Tensor:
        """See `Backend.conv2d`. In bfloat16 the result lies in memory as (B, period, T', C').

        But for a few frames, for which oneDNN's convolution in that layout is wrong on CPUs with AMX (3.12).
        """
        if _computes_bf16("cpu") and x.shape[2] > stride:
            return PeriodConvolution.apply(x, weight, bias, stride, padding, slope, torch.bfloat16)
        return super().conv2d(x, weight, bias, stride, padding, slope)

    def run_sensitive(self, layer: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        """Run a layer that is sensitive to rounding, in float32."""
        return run_fp32(layer, x, *others)

    def discriminator_input(self, wave: Tensor) -> Tensor:
        """The wave itself."""
        return wave

    def residual_sum(self, x: Tensor) -> Tensor:
        """float32, for the sum of residuals."""
        return to_fp32(x)

    def cached_weight(self, weight: Tensor, dtype: torch.dtype | None, keep_fp32: bool) -> Tensor:
        """See `Backend.cached_weight`."""
        if keep_fp32:
            return weight
        is_period_convolution = weight.ndim == 4 and dtype == torch.bfloat16
        layout = torch.channels_last if is_period_convolution else torch.preserve_format
        return weight.to(dtype or weight.dtype, memory_format=layout)

    def prefers_channels_last(self, x: Tensor, weight: Tensor, dilation: int) -> bool:
        """Whether a 1-D convolution in float32 is faster with channels last: narrow ones are with oneDNN and AVX.

        Undilated ones only with AVX-512: without it oneDNN has a faster algorithm for them that takes the other layout.
        """
        is_fp32 = x.dtype == weight.dtype == torch.float32
        is_narrow = weight.shape[0] in NARROW_CHANNELS and weight.shape[1] in NARROW_CHANNELS
        return is_fp32 and is_narrow and self.capability in (("AVX2", "AVX512") if dilation > 1 else ("AVX512",))


PYTORCH = Backend()


@cache
def backend_for(device_type: str) -> Backend:
    """The backend of a kind of device, such as "cpu" or "cuda"."""
    if device_type != "cpu":
        return PYTORCH
    return CpuBackend(torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else "")


class BackendModule(nn.Module):
    """A module whose layouts and formats depend on the device that its parameters are on."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = backend_for(torch.get_default_device().type)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Choose the backend again: `nn.Module` moves the parameters here, whichever method was called."""
        super()._apply(fn, recurse)
        self.backend = backend_for(next(self.parameters()).device.type)
        return self


def use_backend(model: nn.Module, backend: Backend) -> None:
    """Set the backend of all layers, until the model is moved."""
    for module in model.modules():
        if isinstance(module, BackendModule):
            module.backend = backend


def _computes_bf16(device_type: str) -> bool:
    """Whether autocast is on, with bfloat16 as its format."""
    return torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.bfloat16


def conv1d_channels_last(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, dilation: int, dtype: torch.dtype
) -> Tensor:
    """`F.conv1d` in `dtype`, as a 2-D convolution of height 1: x (B, C, T) -> (B, C', T'), both channels last."""
    x = x.to(dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight.unsqueeze(2), bias, (1, stride), (0, padding), (1, dilation)).squeeze(2)


class PeriodConvolution(torch.autograd.Function):
    """`Backend.conv2d` in a 16-bit format, or in any for its test, on x laid out as (B, period, T, C).

    The weight's gradient is one matrix product: oneDNN's own takes up to three times as long for wide convolutions over
    few frames.
    """

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
        """x (B, C, T, period), weight (C', C, K, 1), bias (C',) -> (B, C', T', period) of `dtype`."""
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
        """Gradients of x, in the 16-bit format, and of weight and bias, in theirs."""
        x, weight, y = ctx.saved_tensors
        gradient = gradients[0].transpose(2, 3).contiguous(memory_format=torch.channels_last)
        if y is not None:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x, _, _ = _aten_convolution_backward(gradient, x, weight, None, *ctx.options, (True, False, False))
            grad_x = grad_x.transpose(2, 3)
        if needs_weight:
            (_, stride), (_, padding) = ctx.options[:2]
            grad_weight = weight_gradient(x, gradient, weight.shape[3], stride, padding)
            grad_weight = grad_weight.transpose(2, 3).to(ctx.parameters_dtype, memory_format=torch.contiguous_format)
        if needs_bias:
            grad_bias = gradient.sum((0, 2, 3), dtype=ctx.parameters_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def weight_gradient(x: Tensor, gradient: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Weight gradient of a convolution along the last dimension, as one matrix product.

    x (B, C, H, T), gradient (B, C', H, T') -> (C', C, 1, K). All windows of x are views of it once it is padded.
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


class _GatedActivation(torch.autograd.Function):
    """`gated_activation`, with half of its kernels in the backward pass and one tensor kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, condition: Tensor) -> Tensor:
        """See `gated_activation`."""
        x = x + condition
        x.chunk(2, dim=1)[0].tanh_()
        ctx.save_for_backward(x)
        ctx.condition_shape = condition.shape
        return F.glu(x, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the condition."""
        (x,) = ctx.saved_tensors
        gradient = torch.ops.aten.glu_backward(gradients[0], x, 1)
        of_wave, wave = gradient.chunk(2, dim=1)[0], x.chunk(2, dim=1)[0]
        torch.ops.aten.tanh_backward.grad_input(of_wave, wave, grad_input=of_wave)
        return gradient, gradient.sum_to_size(ctx.condition_shape)


def gated_activation(x: Tensor, condition: Tensor) -> Tensor:
    """tanh of the first half of the channels of x + condition, times the sigmoid of the other.

    x (B, 2 C, T), condition (B, 2 C, 1) -> (B, C, T).
    """
    if torch.is_grad_enabled():
        return _GatedActivation.apply(x, condition)
    wave, gate = (x + condition).chunk(2, dim=1)
    return wave.tanh() * gate.sigmoid()


class MeanDistances(torch.autograd.Function):
    """Sum of the mean absolute differences of pairs of maps, in float32; the second of each pair gets no gradient.

    16-bit maps are subtracted as they are, which gets every difference's sign right and the mean to six digits: half
    the memory traffic of doing it in float32. On a GPU each operation is one kernel for all pairs.
    """

    SCALE = 2.0**16
    """Signs are divided by the size of their map in two steps, neither of which leaves float16's range."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        """The first maps of all pairs, then the second ones -> a scalar."""
        differences = torch._foreach_sub(maps[: len(maps) // 2], maps[len(maps) // 2 :])
        counts = [difference.numel() for difference in differences]
        dtype = None if maps[0].dtype == torch.float64 else torch.float32
        if maps[0].device.type == "cpu":  # where a norm is one long sum, slow and inexact
            means = [difference.abs().mean(dtype=dtype) for difference in differences]
        else:
            means = list(torch._foreach_norm(differences, 1, dtype))
            torch._foreach_mul_(means, [1 / count for count in counts])
        torch._foreach_sign_(differences)
        torch._foreach_mul_(differences, [MeanDistances.SCALE / count for count in counts])
        ctx.save_for_backward(*differences)
        return torch.stack(means).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The sign of each difference, over their number: in the memory that was kept for it."""
        signs = ctx.saved_tensors
        torch._foreach_mul_(signs, (gradients[0] / MeanDistances.SCALE).to(signs[0].dtype))
        return *signs, *[None] * len(signs)
