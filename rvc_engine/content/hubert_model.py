"""HuBERT (Hsu et al., 2021) over a batch of clips of unequal lengths, each with the frames that it would have alone.

`transformers` pads waves to one length, which changes the statistics of the first layer's norm. Here the convolutions
run clip by clip and their output is padded: the positional convolution sees zeros beyond a clip's end, attention masks
its keys, and all other layers work frame by frame. Sizes and weights have the names of `transformers`, which takes
three seconds to import and is not needed for models of the published form.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor

from rvc_engine.content.windows import num_content_frames

FIRST_KERNEL, FIRST_STRIDE = 10, 5
KERNELS = (FIRST_KERNEL, 3, 3, 3, 3, 2, 2)
STRIDES = (FIRST_STRIDE, 2, 2, 2, 2, 2, 2)
PIECE_FRAMES = 2048
"""Frames of the first layer that are computed at once: they fit a core's cache (4 MB)."""
GROUP_NORM_EPS = 1e-5
MIN_BF16_CHANNELS = 16
"""Channels of a group from which the positional convolution is computed in bfloat16: with fewer, oneDNN's convolution
of an even kernel is wrong on CPUs with AMX (3.12). Published models have 48."""

NamedWeights = Mapping[str, Tensor]

_CONV = "feature_extractor.conv_layers.{}.conv.weight"
_FIRST_NORM = "feature_extractor.conv_layers.0.layer_norm"
_PROJECTION = "feature_projection.projection"
_PROJECTION_NORM = "feature_projection.layer_norm"
_POSITION = "encoder.pos_conv_embed.conv"
_POSITION_GAIN = f"{_POSITION}.parametrizations.weight.original0"
_POSITION_DIRECTION = f"{_POSITION}.parametrizations.weight.original1"
_NORM = "encoder.layer_norm"
_BLOCK = "encoder.layers.{}"
_ATTENTION = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_ATTENTION_OUT = "attention.out_proj"
_ATTENTION_NORM = "layer_norm"
_WIDE = "feed_forward.intermediate_dense"
_NARROW = "feed_forward.output_dense"
_BLOCK_NORM = "final_layer_norm"


class HubertSizes(BaseModel, frozen=True):
    """Sizes of a HuBERT in a `config.json`; what is missing there is HuBERT base's, as in `transformers`."""

    hidden_size: PositiveInt = 768
    num_hidden_layers: PositiveInt = Field(12, le=1000)
    num_attention_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: PositiveFloat = 1e-5
    do_stable_layer_norm: bool = False
    classifier_proj_size: PositiveInt = 256

    conv_dim: tuple[PositiveInt, ...] = (512,) * len(KERNELS)
    conv_kernel: tuple[PositiveInt, ...] = KERNELS
    conv_stride: tuple[PositiveInt, ...] = STRIDES
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    num_conv_pos_embeddings: PositiveInt = 128
    num_conv_pos_embedding_groups: PositiveInt = 16
    conv_pos_batch_norm: bool = False

    @property
    def is_published_form(self) -> bool:
        """Whether the model has the form of HuBERT base, ContentVec and SPIN, with any width and depth."""
        return (
            (self.conv_kernel, self.conv_stride, len(self.conv_dim)) == (KERNELS, STRIDES, len(KERNELS))
            and self.feat_extract_norm == "group"
            and self.feat_proj_layer_norm
            and not (self.conv_bias or self.do_stable_layer_norm or self.conv_pos_batch_norm)
            and self.hidden_act == self.feat_extract_activation == "gelu"
            and self.hidden_size % self.num_attention_heads == 0
            and self.hidden_size % self.num_conv_pos_embedding_groups == 0
        )


def weight_shapes(sizes: HubertSizes) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a model of the published form, by name."""
    channels, hidden, inner = sizes.conv_dim, sizes.hidden_size, sizes.intermediate_size
    position = sizes.num_conv_pos_embeddings
    shapes: dict[str, tuple[int, ...]] = {
        _CONV.format(n): (channels[n], channels[n - 1] if n else 1, kernel) for n, kernel in enumerate(KERNELS)
    }
    shapes |= _with_bias(_FIRST_NORM, channels[0])
    shapes |= _with_bias(_PROJECTION_NORM, channels[-1]) | _with_bias(_PROJECTION, hidden, channels[-1])
    shapes |= {
        _POSITION_GAIN: (1, 1, position),
        _POSITION_DIRECTION: (hidden, hidden // sizes.num_conv_pos_embedding_groups, position),
        f"{_POSITION}.bias": (hidden,),
    }
    shapes |= _with_bias(_NORM, hidden)
    for number in range(sizes.num_hidden_layers):
        for name in (*_ATTENTION, _ATTENTION_OUT):
            shapes |= _with_bias(f"{_BLOCK.format(number)}.{name}", hidden, hidden)
        shapes |= _with_bias(f"{_BLOCK.format(number)}.{_WIDE}", inner, hidden)
        shapes |= _with_bias(f"{_BLOCK.format(number)}.{_NARROW}", hidden, inner)
        for name in (_ATTENTION_NORM, _BLOCK_NORM):
            shapes |= _with_bias(f"{_BLOCK.format(number)}.{name}", hidden)
    return shapes


def _with_bias(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


class Hubert:
    """A HuBERT of the published form, on the device of its weights, for inference."""

    def __init__(self, sizes: HubertSizes, weights: NamedWeights, dtype: torch.dtype) -> None:
        """`weights` are float32, with the shapes of `weight_shapes`.

        `dtype` is the format of products: 16-bit or float32. Norms, sums and the blocks' outputs are always float32.
        """
        eps = sizes.layer_norm_eps
        self._dtype = dtype
        self._channels: int = sizes.conv_dim[-1]
        self._first = weights[_CONV.format(0)].squeeze(1).T.contiguous()
        self._first_norm = _Norm.from_state_dict(weights, _FIRST_NORM, GROUP_NORM_EPS)
        self._convs = [
            _Conv(weights[_CONV.format(n)].to(dtype), None, stride=stride) for n, stride in enumerate(STRIDES[1:], 1)
        ]
        self._projection_norm = _Norm.from_state_dict(weights, _PROJECTION_NORM, eps)
        self._projection = _Linear(weights, [_PROJECTION], dtype)
        position = torch._weight_norm(weights[_POSITION_DIRECTION], weights[_POSITION_GAIN], dim=2)
        self._position_dtype = dtype if position.shape[1] >= MIN_BF16_CHANNELS else torch.float32
        self._position = _Conv(
            position.to(self._position_dtype),
            weights[f"{_POSITION}.bias"].to(self._position_dtype),
            padding=position.shape[-1] // 2,
            groups=sizes.num_conv_pos_embedding_groups,
        )
        self._norm = _Norm.from_state_dict(weights, _NORM, eps)
        self._blocks = [_Block(sizes, weights, _BLOCK.format(n), dtype) for n in range(sizes.num_hidden_layers)]

    def __call__(self, waves: Sequence[Tensor], num_blocks: int | None = None) -> list[Tensor]:
        """Output (frames, hidden_size) of block `num_blocks`, or the last, for each clip (num_samples,)."""
        counts = [num_content_frames(len(wave)) for wave in waves]
        is_own = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(waves[0].device)
        x = self._extract_features(waves, is_own.shape[1])
        x = self._projection(self._projection_norm(x)).float()
        x = torch.where(is_own.unsqueeze(-1), x, 0.0)  # for the positional convolution, beyond each clip's end
        x = self._norm(x + self._positions(x))
        keys = is_own[:, None, None, :]
        for block in self._blocks[:num_blocks]:
            x = block(x, keys)
        return [clip[:count] for clip, count in zip(x, counts, strict=True)]

    def _extract_features(self, waves: Sequence[Tensor], frames: int) -> Tensor:
        """Output of the convolutions, zero beyond a clip's own frames: (clips, frames, channels).

        Clip by clip, and the widest layer in pieces: memory that fits the caches, and is soon used again, saves a third
        of the time on a CPU.
        """
        x = waves[0].new_zeros((len(waves), frames, self._channels), dtype=self._dtype)
        for clip, wave in zip(x, waves, strict=True):
            y = self._first_layer(wave)[None]
            for conv in self._convs:
                y = conv(y)
            clip[: y.shape[1]] = y[0]
        return x

    def _first_layer(self, wave: Tensor) -> Tensor:
        """Output (frames, channels) of the first layer, its norm and its GELU for a clip (num_samples,)."""
        weight, bias = self._fold_first_norm(wave)
        windows = wave.unfold(0, FIRST_KERNEL, FIRST_STRIDE)
        x = wave.new_empty((len(windows), weight.shape[1]), dtype=self._dtype)
        for start in range(0, len(windows), PIECE_FRAMES):
            piece = slice(start, start + PIECE_FRAMES)
            x[piece] = F.gelu(torch.addmm(bias, windows[piece], weight))
        return x

    def _fold_first_norm(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Fold this clip's norm into the first convolution: weights (10, channels) and bias (channels,).

        Mean and variance of the convolution's output follow from the moments of its input.
        """
        windows = wave.unfold(0, FIRST_KERNEL, FIRST_STRIDE).double()
        weight = self._first.double()
        mean = windows.mean(0)
        windows = windows - mean
        variance = ((windows.T @ windows / len(windows) @ weight) * weight).sum(0)
        scale = self._first_norm.weight * (variance + self._first_norm.eps).rsqrt()
        bias = self._first_norm.bias - mean @ weight * scale
        return (weight * scale).float(), bias.float()

    def _positions(self, x: Tensor) -> Tensor:
        """Positional convolution, (clips, frames, hidden_size) to the same; an even kernel gives one frame too many."""
        return self._position(x.to(self._position_dtype))[:, : x.shape[1]].float()


class _Norm(NamedTuple):
    """Layer norm over the last dimension, in float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def from_state_dict(cls, weights: NamedWeights, name: str, eps: float) -> "_Norm":
        return cls(weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


class _Linear:
    """One or several linear layers on the same input, as one product."""

    def __init__(self, weights: NamedWeights, names: Sequence[str], dtype: torch.dtype) -> None:
        self._weight = torch.cat([weights[f"{name}.weight"].to(dtype) for name in names])
        self._bias = torch.cat([weights[f"{name}.bias"].to(dtype) for name in names])

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._bias.dtype), self._weight, self._bias)


class _Conv:
    """Convolution over (clips, frames, channels), then a GELU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1) -> None:
        """`weight` is (out, in / groups, kernel)."""
        # Over images of height 1 with channels last, which is the layout of the frames in memory.
        self._weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._bias, self._stride, self._padding, self._groups = bias, (1, stride), (0, padding), groups

    def __call__(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unsqueeze(2)
        y = F.gelu(F.conv2d(image, self._weight, self._bias, self._stride, self._padding, groups=self._groups))
        return y.squeeze(2).transpose(1, 2)


class _Block:
    """Post-norm transformer block."""

    def __init__(self, sizes: HubertSizes, weights: NamedWeights, name: str, dtype: torch.dtype) -> None:
        self._num_heads = sizes.num_attention_heads
        self._qkv = _Linear(weights, [f"{name}.{each}" for each in _ATTENTION], dtype)
        self._out = _Linear(weights, [f"{name}.{_ATTENTION_OUT}"], dtype)
        self._norm = _Norm.from_state_dict(weights, f"{name}.{_ATTENTION_NORM}", sizes.layer_norm_eps)
        self._wide = _Linear(weights, [f"{name}.{_WIDE}"], dtype)
        self._narrow = _Linear(weights, [f"{name}.{_NARROW}"], dtype)
        self._final_norm = _Norm.from_state_dict(weights, f"{name}.{_BLOCK_NORM}", sizes.layer_norm_eps)

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """(clips, frames, hidden_size) to the same; keys (clips, 1, 1, frames) are False on padding."""
        qkv = self._qkv(x).view(*x.shape[:2], 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=keys)
        x = self._norm(x + self._out(mixed.transpose(1, 2).flatten(2)))
        return self._final_norm(x + self._narrow(F.gelu(self._wide(x))))
