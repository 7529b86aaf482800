"""Discriminators of HiFi-GAN: one on the wave itself, the others on the wave folded at prime periods."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.config import Version
from rvc_engine.models.backend import BackendModule
from rvc_engine.models.weight_norm import WeightNormConv1d, WeightNormConv2d

PERIODS: dict[Version, tuple[int, ...]] = {"v1": (2, 3, 5, 7, 11, 17), "v2": (2, 3, 5, 7, 11, 17, 23, 37)}
SLOPE = 0.1
SENSITIVE_LAYERS = 3
"""Number of layers of each discriminator, the first ones, that are sensitive to rounding: a quiet wave is small beside
their biases and would be lost. They are 10 % of the work."""

DiscriminatorOutput = tuple[Tensor, list[Tensor]]
"""Scores (B, N), and the feature maps of all layers, the last one's included."""


class ScaleDiscriminator(nn.Module):
    """Strided grouped convolutions on the wave."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        widths = [1, *(max(1, int(width * scale)) for width in (16, 64, 256, 1024, 1024, 1024))]
        kernels, strides = (15, 41, 41, 41, 41, 5), (1, 4, 4, 4, 4, 1)
        groups = [1, *(max(1, int(group * scale)) for group in (4, 16, 64, 256)), 1]
        self.convs = nn.ModuleList(
            WeightNormConv1d(
                widths[n],
                widths[n + 1],
                kernels[n],
                strides[n],
                kernels[n] // 2,
                groups=groups[n],
                keep_fp32=n < SENSITIVE_LAYERS,
            )
            for n in range(6)
        )
        self.conv_post = WeightNormConv1d(widths[-1], 1, 3, padding=1)

    def forward(self, wave: Tensor) -> DiscriminatorOutput:
        """wave (B, 1, T) -> scores and feature maps."""
        return _forward(wave, self.convs, self.conv_post)


class PeriodDiscriminator(nn.Module):
    """Convolutions along time on the wave folded to (T / period, period)."""

    def __init__(self, period: int, scale: float) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(max(1, int(width * scale)) for width in (32, 128, 512, 1024, 1024))]
        strides = (3, 3, 3, 3, 1)
        self.convs = nn.ModuleList(
            WeightNormConv2d(widths[n], widths[n + 1], 5, strides[n], padding=2, keep_fp32=n < SENSITIVE_LAYERS)
            for n in range(5)
        )
        self.conv_post = WeightNormConv2d(widths[-1], 1, 3, padding=1)

    def forward(self, wave: Tensor) -> DiscriminatorOutput:
        """wave (B, 1, T) -> scores and feature maps."""
        missing = -wave.shape[2] % self.period
        if missing:
            wave = F.pad(wave, (0, missing), "reflect")
        return _forward(wave.unflatten(2, (-1, self.period)), self.convs, self.conv_post)


def _forward(x: Tensor, convs: nn.ModuleList, last: nn.Module) -> DiscriminatorOutput:
    maps = []
    for conv in convs:
        x = conv(x, SLOPE)
        maps.append(x)
    x = last(x)
    maps.append(x)
    return x.flatten(1), maps


class Discriminators(BackendModule):
    """All discriminators, the one on the wave itself first."""

    def __init__(self, version: Version, scale: float = 1.0) -> None:
        """`scale` multiplies the channels of all layers; 1 is the published size."""
        super().__init__()
        self.discriminators = nn.ModuleList([ScaleDiscriminator(scale)])
        self.discriminators.extend(PeriodDiscriminator(period, scale) for period in PERIODS[version])

    def forward(self, wave: Tensor) -> list[DiscriminatorOutput]:
        """wave (B, 1, T) -> one output per discriminator."""
        wave = self.backend.discriminator_input(wave)
        return [discriminator(wave) for discriminator in self.discriminators]
