"""HuBERT's forward pass over clips of unequal lengths at once, each with the rows that it would have alone.

`transformers` pads clips to one length, which changes the statistics of the first layer's norm. Here the clips lie side
by side in one long row of frames: each starts at a multiple of the net's whole stride, so its frames stand where they
would alone, and what straddles two clips is not read. Each keeps its own statistics for the first norm, zeros at its
ends for the positional convolution, and its own keys for attention. All else goes row by row, as products of large
matrices: a strided convolution of kernel 2 or 3 over rows (frames, channels) is one or two products of the very same
memory, seen as pairs of frames.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import HubertConfig

from rvc_engine.content.windows import ROW_SAMPLES, num_rows
from rvc_engine.precision import cpu_multiplies_bf16

FIRST_KERNEL, FIRST_STRIDE = 10, 5
KERNELS = (FIRST_KERNEL, 3, 3, 3, 3, 2, 2)
STRIDES = (FIRST_STRIDE, 2, 2, 2, 2, 2, 2)
FRAMES_PER_ROW = ROW_SAMPLES // FIRST_STRIDE
"""Frames of the first layer under each row."""
PACKED_ROWS = 4 * 185
"""Which oneDNN lays weights out for: a batch of training slices. Others are multiplied as well."""
PIECE_FRAMES = 2048
"""Of the first layer at once: 4 MB of a core's cache."""


def is_packable(config: HubertConfig) -> bool:
    """Whether a net is of the published form: HuBERT base's, ContentVec's and SPIN's, of any width and depth."""
    return (
        tuple(config.conv_kernel) == KERNELS
        and tuple(config.conv_stride) == STRIDES
        and config.feat_extract_norm == "group"
        and not config.conv_bias
        and not config.do_stable_layer_norm
        and config.feat_proj_layer_norm
        and not getattr(config, "conv_pos_batch_norm", False)
        and config.hidden_act == config.feat_extract_activation == "gelu"
    )


class PackedHubert:
    """The weights of a `HubertModel`, laid out for the pass; they stay where it has them, on its device."""

    def __init__(self, net: Any, dtype: torch.dtype) -> None:
        """`dtype` is that of products: bfloat16 or float32. Norms, sums and what leaves a block stay float32."""
        layers = net.feature_extractor.conv_layers
        self._dtype = dtype
        self._first = layers[0].conv.weight.squeeze(1).T.contiguous()
        self._first_norm = layers[0].layer_norm
        self._convs = [_taps(layer.conv.weight.to(dtype)) for layer in layers[1:]]
        self._projection_norm = net.feature_projection.layer_norm
        self._projection = _Linear([net.feature_projection.projection], dtype)
        position = net.encoder.pos_conv_embed.conv
        weight = position.weight.detach().to(dtype).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._position = (weight, position.bias.to(dtype), position.groups)
        self._norm = net.encoder.layer_norm
        self._blocks = [_Block(block, net.config.num_attention_heads, dtype) for block in net.encoder.layers]

    def __call__(self, waves: Sequence[Tensor], num_blocks: int | None = None) -> list[Tensor]:
        """Clips (num_samples,) of at least one row to what the blocks up to a number put out: (rows, hidden_size)."""
        rows = torch.tensor([num_rows(len(wave)) for wave in waves])
        is_own = (torch.arange(int(rows.max()) + 1) < rows[:, None]).to(waves[0].device)
        x = self._extracted(waves, is_own.shape[1])
        x = self._projection(_normed(x, self._projection_norm)).float().view(*is_own.shape, -1)
        x = torch.where(is_own.unsqueeze(-1), x, 0.0)  # what the positional convolution finds behind each clip's end
        x = _normed(x + self._positions(x), self._norm)
        keys = is_own[:, None, None, :]
        for block in self._blocks[:num_blocks]:
            x = block(x, keys)
        return [clip[:count] for clip, count in zip(x, rows.tolist(), strict=True)]

    def _extracted(self, waves: Sequence[Tensor], rows: int) -> Tensor:
        """The convolutions' output, `rows` rows a clip, the last of them nobody's: (clips * rows, channels).

        A clip at a time, and the widest layer in pieces: memory that fits the caches, and that is used again at once,
        spares a third of the time.
        """
        x = waves[0].new_empty((len(waves), rows, self._first.shape[1]), dtype=self._dtype)
        for clip, wave in zip(x, waves, strict=True):
            y = self._first_frames(wave, rows * FRAMES_PER_ROW)
            for first_two, third in self._convs:
                pairs = y.view(len(y) // 2, -1)
                y = pairs @ first_two
                if third is not None:
                    y[:-1].addmm_(pairs[1:, : first_two.shape[0] // 2], third)
                y = F.gelu(y)
            clip.copy_(y)
        return x.flatten(0, 1)

    def _first_frames(self, wave: Tensor, frames: int) -> Tensor:
        """What the first layer, its norm and its GELU make of a clip (num_samples,): (frames, channels)."""
        weight, bias = self._first_of(wave)
        needed = FIRST_STRIDE * (frames - 1) + FIRST_KERNEL
        seen = F.pad(wave[:needed], (0, max(0, needed - len(wave)))).unfold(0, FIRST_KERNEL, FIRST_STRIDE)
        x = wave.new_empty((frames, weight.shape[1]), dtype=self._dtype)
        for start in range(0, frames, PIECE_FRAMES):
            piece = slice(start, start + PIECE_FRAMES)
            x[piece] = F.gelu(torch.addmm(bias, seen[piece], weight))
        return x

    def _first_of(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """The first convolution with its norm, as this clip has it: weights (10, channels) and bias.

        Mean and variance of what the convolution gives follow from the moments of what it sees.
        """
        seen = wave.unfold(0, FIRST_KERNEL, FIRST_STRIDE).double()
        weight = self._first.double()
        mean = seen.mean(0)
        seen = seen - mean
        variance = ((seen.T @ seen / len(seen) @ weight) * weight).sum(0)
        scale = self._first_norm.weight * (variance + self._first_norm.eps).rsqrt()
        bias = self._first_norm.bias - mean @ weight * scale
        return (weight * scale).float(), bias.float()

    def _positions(self, x: Tensor) -> Tensor:
        """The positional convolution, (clips, rows, hidden_size) to the same; an even kernel gives one row too many."""
        weight, bias, groups = self._position
        # Channels last, as they lie.
        x_last = x.to(self._dtype).transpose(1, 2).unsqueeze(2)
        y = F.conv2d(x_last, weight, bias, padding=(0, weight.shape[-1] // 2), groups=groups).squeeze(2)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2).float()


class _Linear:
    """One or several layers on the same input, as one product, and a GELU if one follows."""

    def __init__(self, layers: Sequence[nn.Linear], dtype: torch.dtype, *, is_gelu_next: bool = False) -> None:
        weights, biases = [layer.weight.to(dtype) for layer in layers], [layer.bias.to(dtype) for layer in layers]
        self._weight, self._bias = (each[0] if len(each) == 1 else torch.cat(each) for each in (weights, biases))
        self._is_gelu_next = is_gelu_next
        self._is_packed = _packs(self._weight)
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self._bias.dtype)
        if self._is_packed:
            then, how = ("gelu", "none") if self._is_gelu_next else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, then, [], how)  # type: ignore[no-any-return]
        y = F.linear(x, self._weight, self._bias)
        return F.gelu(y) if self._is_gelu_next else y


class _Block:
    """A post-norm transformer block."""

    def __init__(self, block: Any, num_heads: int, dtype: torch.dtype) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self._num_heads = num_heads
        self._qkv = _Linear([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
        self._out = _Linear([attention.out_proj], dtype)
        self._norm = block.layer_norm
        self._wide = _Linear([feed_forward.intermediate_dense], dtype, is_gelu_next=True)
        self._narrow = _Linear([feed_forward.output_dense], dtype)
        self._final_norm = block.final_layer_norm

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """(clips, rows, hidden_size) float32 to the same; `keys` (clips, 1, 1, rows) are the rows to attend to."""
        qkv = self._qkv(x).view(*x.shape[:2], 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=keys)
        x = _normed(x + self._out(mixed.transpose(1, 2).flatten(2)), self._norm)
        return _normed(x + self._narrow(self._wide(x)), self._final_norm)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN keeps this weight in the layout that it multiplies fastest, as PyTorch's compiler has it do."""
    is_short_on_cpu = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    return is_short_on_cpu and hasattr(torch.ops.mkldnn, "_linear_pointwise") and cpu_multiplies_bf16()


def _taps(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution's weight (out, in, 2 or 3) as products: (2 in, out), and (in, out) for a third tap."""
    first_two = weight[..., :2].permute(2, 1, 0).flatten(0, 1).contiguous()
    return first_two, weight[..., 2].T.contiguous() if weight.shape[-1] == 3 else None


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    normed: Tensor = norm(x.float())
    return normed
