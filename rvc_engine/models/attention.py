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


def _band(num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row j - i + WINDOW of the relative embedding for each pair (i, j), and whether it is in the window: (T, T)."""
    position = torch.arange(num_frames, device=device)
    row = position[None, :] - position[:, None] + WINDOW
    return row.clamp(0, 2 * WINDOW), (row >= 0) & (row <= 2 * WINDOW)


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
        """(B, C, T) -> (B, heads, T, head_size)."""
        batch, _, frames = x.shape
        return x.view(batch, N_HEADS, self.head_size, frames).transpose(2, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T, T) with 0 where a pair is padding -> (B, C, T)."""
        batch, channels, frames = x.shape
        query = self._split(self.conv_q(x)) / math.sqrt(self.head_size)
        key, value = self._split(self.conv_k(x)), self._split(self.conv_v(x))
        row, inside = _band(frames, x.device)

        scores = query @ key.transpose(2, 3)
        relative = query @ self.emb_rel_k[0].t()  # (B, heads, T, 21)
        relative = relative.gather(3, row.expand(batch, N_HEADS, frames, frames))
        scores = (scores + relative * inside).masked_fill(mask == 0, MASK_FILL)
        attention = scores.softmax(dim=-1)

        # The band of the attention around its diagonal: near[..., i, r] = attention[..., i, i + r - WINDOW].
        padded = F.pad(attention, (WINDOW, WINDOW))
        offset = torch.arange(frames, device=x.device)[:, None] + torch.arange(2 * WINDOW + 1, device=x.device)
        near = padded.gather(3, offset.expand(batch, N_HEADS, frames, 2 * WINDOW + 1))
        out = attention @ value + near @ self.emb_rel_v[0]
        return self.conv_o(out.transpose(2, 3).reshape(batch, channels, frames))


class FeedForward(nn.Module):
    """Two convolutions along time with a ReLU between."""

    def __init__(self, channels: int, filter_channels: int) -> None:
        super().__init__()
        padding = TEXT_KERNEL_SIZE // 2
        self.conv_1 = nn.Conv1d(channels, filter_channels, TEXT_KERNEL_SIZE, padding=padding)
        self.conv_2 = nn.Conv1d(filter_channels, channels, TEXT_KERNEL_SIZE, padding=padding)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T) -> (B, C, T)."""
        return self.conv_2(self.conv_1(x * mask).relu() * mask) * mask


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
        pair_mask = mask.unsqueeze(2) * mask.unsqueeze(3)
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in layers:
            x = norm_1(x + self._run_block(partial(run_fp32, attention), x, pair_mask))
            x = norm_2(x + self._run_block(feed_forward, x, mask))
        return x * mask
