"""Normalising flow between posterior and prior: four mean-only couplings, each followed by a channel flip (VITS)."""

import torch
from torch import Tensor, nn

from rvc_engine.models.backend import run_fp32
from rvc_engine.models.encoders import WaveNet
from rvc_engine.models.weight_norm import CastConv1d

NUM_COUPLINGS = 4


class Coupling(nn.Module):
    """Affine coupling that shifts half of the channels by a function of the other half; its determinant is one."""

    def __init__(self, channels: int, gin_channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.pre = CastConv1d(half, channels, 1)
        self.enc = WaveNet(channels, 5, 3, gin_channels)
        self.post = nn.Conv1d(channels, half, 1)
        nn.init.zeros_(self.post.weight)
        nn.init.zeros_(self.post.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor, reverse: bool) -> Tensor:
        """x (B, C, T), mask (B, 1, T), speaker (B, gin, 1) -> (B, C, T); `reverse` computes the inverse."""
        kept, shifted = x.chunk(2, dim=1)
        shift = run_fp32(self.post, self.enc(self.pre(kept), mask, speaker)) * mask
        return torch.cat([kept, (shifted - shift) * mask if reverse else shifted * mask + shift], dim=1)


class Flip(nn.Module):
    """Reversal of the channels' order. Without parameters; published weights number it as a layer of the flow."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return x.flip(1)


class Flow(nn.Module):
    """Posterior latent to prior latent, or the inverse with `reverse`."""

    def __init__(self, channels: int, gin_channels: int) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(NUM_COUPLINGS):
            self.flows.append(Coupling(channels, gin_channels))
            self.flows.append(Flip())

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor, reverse: bool = False) -> Tensor:
        """x (B, C, T), mask (B, 1, T), speaker (B, gin, 1) -> (B, C, T)."""
        for layer in reversed(self.flows) if reverse else self.flows:
            x = layer(x, mask, speaker, reverse) if isinstance(layer, Coupling) else layer(x)
        return x
