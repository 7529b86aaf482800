"""Text encoder (content and pitch to a prior) and posterior encoder (spectrogram to a latent), as in VITS."""

import math
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.models.activation_checkpointing import ActivationCheckpointing
from rvc_engine.models.attention import Encoder
from rvc_engine.models.backend import BackendModule, gated_activation, run_fp32
from rvc_engine.models.weight_norm import CastConv1d, WeightNormConv1d

PITCH_BINS = 256


def frame_mask(lengths: Tensor, num_frames: int, dtype: torch.dtype) -> Tensor:
    """Mask of clips of (B,) lengths: (B, 1, num_frames), 1 on a clip's own frames and 0 on padding."""
    return (torch.arange(num_frames, device=lengths.device) < lengths[:, None]).unsqueeze(1).to(dtype)


class TextEncoder(nn.Module):
    """Encoder of content features and coarse pitch to mean and log standard deviation of the prior."""

    def __init__(self, feature_size: int, channels: int, filter_channels: int, f0: bool) -> None:
        super().__init__()
        self.channels = channels
        self.emb_phone = nn.Linear(feature_size, channels)
        if f0:
            self.emb_pitch = nn.Embedding(PITCH_BINS, channels)
        self.encoder = Encoder(channels, filter_channels)
        self.proj = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, features: Tensor, coarse_f0: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, feature_size), coarse_f0 (B, T) bins or None, mask (B, 1, T) -> mean, log std, (B, C, T)."""
        x = self.emb_phone(features)
        if coarse_f0 is not None:
            x = x + self.emb_pitch(coarse_f0)
        x = F.leaky_relu(x * math.sqrt(self.channels), 0.1).transpose(1, 2)
        mean, log_std = (run_fp32(self.proj, self.encoder(x * mask, mask)) * mask).chunk(2, dim=1)
        return mean, log_std


class WaveNet(ActivationCheckpointing, BackendModule):
    """Gated convolutions with residual and skip outputs, conditioned on the speaker (van den Oord et al., 2016)."""

    def __init__(self, channels: int, kernel_size: int, num_layers: int, gin_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.in_layers = nn.ModuleList()
        self.res_skip_layers = nn.ModuleList()
        self.cond_layer = WeightNormConv1d(gin_channels, 2 * channels * num_layers, 1)
        for layer in range(num_layers):
            self.in_layers.append(WeightNormConv1d(channels, 2 * channels, kernel_size, padding=kernel_size // 2))
            is_last = layer == num_layers - 1
            self.res_skip_layers.append(WeightNormConv1d(channels, channels if is_last else 2 * channels, 1))

    def forward(self, x: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        """x (B, C, T), mask (B, 1, T), speaker (B, gin, 1) -> (B, C, T)."""
        conditionings = self.cond_layer(speaker).chunk(len(self.in_layers), dim=1)
        x = self.backend.residual_sum(x)
        mask = mask.to(x.dtype)
        x = x * mask
        output = torch.zeros_like(x)
        for layer, condition in enumerate(conditionings):
            res_skip = self._run_block(partial(self._layer, layer), x, condition)
            if res_skip.shape[1] > self.channels:
                residual, skip = res_skip.chunk(2, dim=1)
                x = torch.addcmul(x, residual, mask)  # (x + residual) * mask, as x is masked
                output = output + skip
            else:
                output = output + res_skip
        return output * mask

    def _layer(self, layer: int, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, T), condition (B, 2 C, 1) -> residual and skip (B, 2 C, T), or the last layer's skip (B, C, T)."""
        return self.res_skip_layers[layer](gated_activation(self.in_layers[layer](x), condition))


class PosteriorEncoder(nn.Module):
    """Encoder of a linear spectrogram to the decoder's latent."""

    def __init__(self, spec_channels: int, channels: int, gin_channels: int) -> None:
        super().__init__()
        self.pre = CastConv1d(spec_channels, channels, 1)
        self.enc = WaveNet(channels, 5, 16, gin_channels)
        self.proj = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, speaker: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """spec (B, bins, T), mask (B, 1, T), speaker (B, gin, 1), noise (B, C, T) -> latent, mean, log std."""
        hidden = self.enc(self.pre(spec), mask, speaker)
        mean, log_std = (run_fp32(self.proj, hidden) * mask).chunk(2, dim=1)
        return (mean + noise * log_std.exp()) * mask, mean, log_std
