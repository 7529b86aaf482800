"""RMVPE: pitch from polyphonic music (Wei et al., "RMVPE: A Robust Model for Vocal Pitch Estimation in Polyphonic
Music", 2023), and its front end.

A U-net over the log-mel, a bidirectional GRU, and 360 bins of 20 cents. Tensor names are those of the published
`rmvpe.pt`, which loads unchanged.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from rvc_engine.audio.mel import triangular_filters
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.curve import HOP_LENGTH
from rvc_engine.pitch.neural.salience import NUM_BINS

N_FFT = 1024
N_MELS = 128
LOWEST_HZ, HIGHEST_HZ = 30.0, 8000.0
LOG_FLOOR = 1e-5
NUM_LEVELS = 5
FRAME_MULTIPLE = 2**NUM_LEVELS
"""Factor of the number of input frames: each level halves them."""
PUBLISHED_WIDTH = 16
_LEVEL_BLOCKS = 4
_GRU_WIDTH = 256


@lru_cache(maxsize=4)
def _front_end(device: torch.device) -> tuple[Tensor, Tensor]:
    """Window (N_FFT,) and mel filters (N_MELS, N_FFT / 2 + 1) on the mel scale 2595 log10(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, N_MELS + 2) / 2595) - 1)
    filters = torch.from_numpy(triangular_filters(edges, ANALYSIS_SAMPLE_RATE, N_FFT).astype(np.float32))
    return torch.hann_window(N_FFT, device=device), filters.to(device)


def log_mel(waves: Tensor) -> Tensor:
    """Waves (B, num_samples) at 16 kHz to (B, N_MELS, 1 + num_samples // 160); frame k is centred on sample 160 k.

    The wave is reflected at its ends, so it must be longer than N_FFT / 2.
    """
    window, filters = _front_end(waves.device)
    spectrum = torch.stft(waves, N_FFT, HOP_LENGTH, window=window, center=True, return_complex=True)
    return (filters @ spectrum.abs()).clamp(min=LOG_FLOOR).log()


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, F) -> (B, out_channels, T, F)."""
        return self.conv(x) + self.shortcut(x)


def _residuals(in_channels: int, out_channels: int) -> nn.ModuleList:
    return nn.ModuleList(_Residual(in_channels if n == 0 else out_channels, out_channels) for n in range(_LEVEL_BLOCKS))


class _Level(nn.Module):
    """Sequence of residual blocks."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _residuals(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, F) -> (B, out_channels, T, F)."""
        for block in self.conv:
            x = block(x)
        return x


class _Encoder(nn.Module):
    """Contracting path: each level doubles the channels, then time and frequency are halved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(1)
        widths = [1, *(width << n for n in range(NUM_LEVELS))]
        self.layers = nn.ModuleList(_Level(before, after) for before, after in pairwise(widths))
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 1, T, F) -> (B, 16 width, T / 32, F / 32), and the output of each level before it is halved."""
        x = self.bn(x)
        levels = []
        for level in self.layers:
            levels.append(level(x))
            x = self.pool(levels[-1])
        return x, levels


class _Bottleneck(nn.Module):
    """Four levels at the lowest resolution, the first of which doubles the channels."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Level(out_channels // 2 if n == 0 else out_channels, out_channels) for n in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels / 2, T, F) -> (B, out_channels, T, F)."""
        for level in self.layers:
            x = level(x)
        return x


class _UpBlock(nn.Module):
    """Expansion by one level: time and frequency doubled, joined with the encoder's output of that level."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )
        self.conv2 = _residuals(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in_channels, T, F) and (B, out_channels, 2 T, 2 F) -> (B, out_channels, 2 T, 2 F)."""
        x = torch.cat([self.conv1(x), skip], dim=1)
        for block in self.conv2:
            x = block(x)
        return x


class _Decoder(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_UpBlock(in_channels >> n, in_channels >> (n + 1)) for n in range(NUM_LEVELS))

    def forward(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """(B, in_channels, T / 32, F / 32) and the encoder's levels -> (B, in_channels / 32, T, F)."""
        for layer, skip in zip(self.layers, reversed(levels), strict=True):
            x = layer(x, skip)
        return x


class _UNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        lowest = width << NUM_LEVELS
        self.encoder = _Encoder(width)
        self.intermediate = _Bottleneck(lowest)
        self.decoder = _Decoder(lowest)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T, F) -> (B, width, T, F)."""
        x, levels = self.encoder(x)
        return self.decoder(self.intermediate(x), levels)


class _BiGru(nn.Module):
    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.gru = nn.GRU(in_features, _GRU_WIDTH, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in_features) -> (B, T, 2 * _GRU_WIDTH)."""
        return self.gru(x)[0]


class Rmvpe(nn.Module):
    """Model from log-mels to the salience of each pitch bin."""

    def __init__(self, width: int = PUBLISHED_WIDTH) -> None:
        """`width`: channels of the uppermost level; published weights exist for PUBLISHED_WIDTH only."""
        super().__init__()
        self.unet = _UNet(width)
        self.cnn = nn.Conv2d(width, 3, 3, padding=1)
        self.fc = nn.Sequential(_BiGru(3 * N_MELS), nn.Linear(2 * _GRU_WIDTH, NUM_BINS))

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mels (B, N_MELS, T), T a multiple of FRAME_MULTIPLE -> salience (B, T, NUM_BINS), each 0..1."""
        x = self.cnn(self.unet(mel.transpose(1, 2).unsqueeze(1)))
        return self.fc(x.transpose(1, 2).flatten(2)).sigmoid()
