"""HuBERT's forward pass over clips of unequal lengths at once, each with the rows that it would have alone.

`transformers` pads clips to one length, which changes the statistics of the first layer's norm. Here the convolutions
take clip by clip, and what is padded comes after them: the positional convolution finds zeros behind a clip's end, and
attention no keys. All else goes row by row. Sizes and weights are named as `transformers` names them, which takes
three seconds to import and is not needed for nets of the published form.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt
from torch import Tensor

from rvc_engine.compute.precision import cpu_supports_bf16
from rvc_engine.content.windows import num_content_frames

FIRST_KERNEL, FIRST_STRIDE = 10, 5
KERNELS = (FIRST_KERNEL, 3, 3, 3, 3, 2, 2)
STRIDES = (FIRST_STRIDE, 2, 2, 2, 2, 2, 2)
PREPACKED_ROWS = 4 * 185
"""Which oneDNN lays weights out for: a batch of training slices. Others are multiplied as well."""
PREPACKED_FRAMES = 5920
"""The same for convolutions."""
PIECE_FRAMES = 2048
"""Of the first layer at once: 4 MB of a core's cache."""
GROUP_NORM_EPS = 1e-5

_PostOps = tuple[str, list[float], str]
"""What oneDNN does to a product before it is written."""
_GELU: _PostOps = ("gelu", [], "none")
_NO_POST_OPS: _PostOps = ("none", [], "")

_ConvParams = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]
"""Padding, stride, dilation and groups of a convolution over images."""

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
    """What a `config.json` says of a net; HuBERT base where it says nothing, as `transformers` takes it too."""

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
    def is_packable(self) -> bool:
        """Whether the net is of the published form: HuBERT base's, ContentVec's and SPIN's, of any width and depth."""
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
    """Of every weight that a packable net has, by name."""
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


class PackedHubert:
    """A net of the published form, its weights laid out for the pass, on the device that they come on."""

    def __init__(self, sizes: HubertSizes, weights: NamedWeights, dtype: torch.dtype) -> None:
        """`weights` are float32, with `weight_shapes`.

        `dtype` is that of products: bfloat16 or float32. Norms, sums and what leaves a block stay float32.
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
        self._position = _Conv(
            position.to(dtype),
            weights[f"{_POSITION}.bias"].to(dtype),
            padding=position.shape[-1] // 2,
            groups=sizes.num_conv_pos_embedding_groups,
        )
        self._norm = _Norm.from_state_dict(weights, _NORM, eps)
        self._blocks = [_Block(sizes, weights, _BLOCK.format(n), dtype) for n in range(sizes.num_hidden_layers)]

    def __call__(self, waves: Sequence[Tensor], num_blocks: int | None = None) -> list[Tensor]:
        """Clips (num_samples,) of at least one row to what the blocks up to a number put out: (rows, hidden_size)."""
        rows = torch.tensor([num_content_frames(len(wave)) for wave in waves])
        is_own = (torch.arange(int(rows.max())) < rows[:, None]).to(waves[0].device)
        x = self._extract_features(waves, is_own.shape[1])
        x = self._projection(self._projection_norm(x)).float()
        x = torch.where(is_own.unsqueeze(-1), x, 0.0)  # what the positional convolution finds behind each clip's end
        x = self._norm(x + self._positions(x))
        keys = is_own[:, None, None, :]
        for block in self._blocks[:num_blocks]:
            x = block(x, keys)
        return [clip[:count] for clip, count in zip(x, rows.tolist(), strict=True)]

    def _extract_features(self, waves: Sequence[Tensor], rows: int) -> Tensor:
        """The convolutions' output, zeros behind a clip's own rows: (clips, rows, channels).

        A clip at a time, and the widest layer in pieces: memory that fits the caches, and that is used again at once,
        spares a third of the time.
        """
        x = waves[0].new_zeros((len(waves), rows, self._channels), dtype=self._dtype)
        for clip, wave in zip(x, waves, strict=True):
            y = self._first_layer(wave)[None]
            for conv in self._convs:
                y = conv(y)
            clip[: y.shape[1]] = y[0]
        return x

    def _first_layer(self, wave: Tensor) -> Tensor:
        """What the first layer, its norm and its GELU make of a clip (num_samples,): (frames, channels)."""
        weight, bias = self._fold_first_norm(wave)
        seen = wave.unfold(0, FIRST_KERNEL, FIRST_STRIDE)
        x = wave.new_empty((len(seen), weight.shape[1]), dtype=self._dtype)
        for start in range(0, len(seen), PIECE_FRAMES):
            piece = slice(start, start + PIECE_FRAMES)
            x[piece] = F.gelu(torch.addmm(bias, seen[piece], weight))
        return x

    def _fold_first_norm(self, wave: Tensor) -> tuple[Tensor, Tensor]:
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
        return self._position(x.to(self._dtype))[:, : x.shape[1]].float()


class _Norm(NamedTuple):
    """A norm over the last dimension, in float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def from_state_dict(cls, weights: NamedWeights, name: str, eps: float) -> "_Norm":
        return cls(weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


class _Linear:
    """One or several layers on the same input, as one product, and a GELU if one follows."""

    def __init__(
        self, weights: NamedWeights, names: Sequence[str], dtype: torch.dtype, *, is_gelu_next: bool = False
    ) -> None:
        self._weight = torch.cat([weights[f"{name}.weight"].to(dtype) for name in names])
        self._bias = torch.cat([weights[f"{name}.bias"].to(dtype) for name in names])
        self._is_gelu_next = is_gelu_next
        self._is_prepacked = _is_prepackable(self._weight)
        if self._is_prepacked:
            self._weight = _prepack(self._weight)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self._bias.dtype)
        if self._is_prepacked:
            return _linear_pointwise(x, self._weight, self._bias, _GELU if self._is_gelu_next else _NO_POST_OPS)
        y = F.linear(x, self._weight, self._bias)
        return F.gelu(y) if self._is_gelu_next else y


class _Conv:
    """A convolution over frames (clips, frames, channels), and a GELU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1) -> None:
        """`weight` is (out, in / groups, kernel)."""
        # Over images of height 1, channels last: the frames as they lie.
        self._weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._bias = bias
        self._params: _ConvParams = (0, padding), (1, stride), (1, 1), groups
        # In groups oneDNN wants another layout for some lengths, and takes a third of a second to change it.
        self._is_prepacked = groups == 1 and _is_prepackable(weight)
        if self._is_prepacked:
            self._weight = _prepack_kernel(self._weight, self._params)

    def __call__(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unsqueeze(2)
        if self._is_prepacked:
            y = _convolution_pointwise(image, self._weight, self._bias, self._params)
        else:
            padding, stride, dilation, groups = self._params
            y = F.gelu(F.conv2d(image, self._weight, self._bias, stride, padding, dilation, groups))
        frames: Tensor = y.squeeze(2).transpose(1, 2)
        return frames


class _Block:
    """A transformer block: attention, then two layers, each with its sum and norm."""

    def __init__(self, sizes: HubertSizes, weights: NamedWeights, name: str, dtype: torch.dtype) -> None:
        self._num_heads = sizes.num_attention_heads
        self._qkv = _Linear(weights, [f"{name}.{each}" for each in _ATTENTION], dtype)
        self._out = _Linear(weights, [f"{name}.{_ATTENTION_OUT}"], dtype)
        self._norm = _Norm.from_state_dict(weights, f"{name}.{_ATTENTION_NORM}", sizes.layer_norm_eps)
        self._wide = _Linear(weights, [f"{name}.{_WIDE}"], dtype, is_gelu_next=True)
        self._narrow = _Linear(weights, [f"{name}.{_NARROW}"], dtype)
        self._final_norm = _Norm.from_state_dict(weights, f"{name}.{_BLOCK_NORM}", sizes.layer_norm_eps)

    def __call__(self, x: Tensor, keys: Tensor) -> Tensor:
        """x (clips, rows, hidden_size), keys (clips, 1, 1, rows)."""
        qkv = self._qkv(x).view(*x.shape[:2], 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=keys)
        x = self._norm(x + self._out(mixed.transpose(1, 2).flatten(2)))
        return self._final_norm(x + self._narrow(self._wide(x)))


def _is_prepackable(weight: Tensor) -> bool:
    """Whether oneDNN keeps this weight in the layout that it multiplies fastest, as PyTorch's compiler has it do."""
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _can_prepack()


@cache
def _can_prepack() -> bool:
    """Whether this PyTorch has the operators, which are its own business, as they are called here; seen by trying."""
    if not cpu_supports_bf16():
        return False
    weight, kernel = (torch.ones(shape, dtype=torch.bfloat16) for shape in ((32, 32), (32, 32, 1, 3)))
    params: _ConvParams = (0, 0), (1, 2), (1, 1), 1
    try:
        _linear_pointwise(weight, _prepack(weight), weight[0], _GELU)
        _convolution_pointwise(weight.T[None, :, None], _prepack_kernel(kernel, params), None, params)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return True


def _prepack(weight: Tensor) -> Tensor:
    prepacked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PREPACKED_ROWS)
    return prepacked


def _linear_pointwise(x: Tensor, prepacked: Tensor, bias: Tensor, post_ops: _PostOps) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, prepacked, bias, *post_ops)
    return y


def _prepack_kernel(weight: Tensor, params: _ConvParams) -> Tensor:
    shape = (1, weight.shape[1], 1, PREPACKED_FRAMES)
    prepacked: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *params, shape)
    return prepacked


def _convolution_pointwise(image: Tensor, prepacked: Tensor, bias: Tensor | None, params: _ConvParams) -> Tensor:
    """With a GELU."""
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(image, prepacked, bias, *params, *_GELU)
    return y
