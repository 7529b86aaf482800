"""Transformer encoder with relative positions within a window, as in VITS (Kim et al., 2021; Shaw et al., 2018).

Post-norm layers, channels first. Positions farther apart than WINDOW have no relative term, in keys or in values.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.hyperparameters import N_HEADS, N_LAYERS, TEXT_KERNEL_SIZE
from rvc_engine.models.activation_checkpointing import ActivationCheckpointing
from rvc_engine.models.backend import run_fp32
from rvc_engine.models.weight_norm import CastConv1d

WINDOW = 10
MASK_FILL = -1e4


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, 1e-5).transpose(1, 2)


def _band_of(pairs: Tensor) -> Tensor:
    """The pairs (i, i + r - WINDOW) of (..., T, T): (..., T, 2 WINDOW + 1), 0 where there is no such frame.

    A row that is one longer than it was begins one later: so the diagonals of a matrix are the columns of another.
    """
    frames = pairs.shape[-1]
    padded = F.pad(pairs, (WINDOW, WINDOW, 0, 1)).flatten(-2)
    length = frames + 2 * WINDOW + 1
    return padded[..., : frames * length].unflatten(-1, (frames, length))[..., : 2 * WINDOW + 1]


def _pairs_of(band: Tensor) -> Tensor:
    """The inverse of `_band_of`: (..., T, 2 WINDOW + 1) -> (..., T, T), 0 for pairs that are farther apart."""
    frames = band.shape[-2]
    padded = F.pad(band, (0, frames)).flatten(-2)
    length = frames + 2 * WINDOW
    return padded[..., : frames * length].unflatten(-1, (frames, length))[..., WINDOW : WINDOW + frames]


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative embeddings that the heads share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head_size = channels // N_HEADS
        std = self.head_size**-0.5
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * WINDOW + 1, self.head_size) * std)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * WINDOW + 1, self.head_size) * std)
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, heads, head_size, T)."""
        return x.unflatten(1, (N_HEADS, self.head_size))

    def forward(self, x: Tensor, is_padding: Tensor) -> Tensor:
        """x (B, C, T), is_padding (B, 1, T, T): whether one of a pair is padding -> (B, C, T)."""
        query = self._split(self.conv_q(x)) / math.sqrt(self.head_size)
        key, value = self._split(self.conv_k(x)), self._split(self.conv_v(x))
        relative = (self.emb_rel_k @ query).transpose(2, 3)  # (B, heads, T, 2 WINDOW + 1)
        scores = query.transpose(2, 3) @ key + _pairs_of(relative)
        attention = scores.masked_fill(is_padding, MASK_FILL).softmax(dim=-1)
        near = _band_of(attention) @ self.emb_rel_v
        out = value @ attention.transpose(2, 3) + near.transpose(2, 3)
        return self.conv_o(out.flatten(1, 2))


class FeedForward(nn.Module):
    """Two convolutions along time with a ReLU between."""

    def __init__(self, channels: int, filter_channels: int) -> None:
        super().__init__()
        padding = TEXT_KERNEL_SIZE // 2
        self.conv_1 = CastConv1d(channels, filter_channels, TEXT_KERNEL_SIZE, padding=padding)
        self.conv_2 = CastConv1d(filter_channels, channels, TEXT_KERNEL_SIZE, padding=padding)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T) -> (B, C, T)."""
        hidden = self.conv_1(x * mask).relu()
        mask = mask.to(hidden.dtype)
        return self.conv_2(hidden * mask) * mask


class Encoder(ActivationCheckpointing):
    """Six layers of attention and feed-forward, each followed by a norm of its sum with its input.

    Attention is always computed in float32: rounding the scores alone would turn the model's gradient by 3 degrees.
    """

    def __init__(self, channels: int, filter_channels: int) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(RelativeAttention(channels) for _ in range(N_LAYERS))
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(N_LAYERS))
        self.ffn_layers = nn.ModuleList(FeedForward(channels, filter_channels) for _ in range(N_LAYERS))
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(N_LAYERS))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T) -> (B, C, T)."""
        is_padding = mask.unsqueeze(2) * mask.unsqueeze(3) == 0
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in layers:
            x = norm_1(x + self._run_block(partial(run_fp32, attention), x, is_padding))
            x = norm_2(x + self._run_block(feed_forward, x, mask))
        return x * mask
