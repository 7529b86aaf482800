"""Decoder of latent and pitch to a wave: HiFi-GAN (Kong et al., 2020) with a sine source (NSF, Wang et al., 2019)."""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.compute.accelerators import has_float64
from rvc_engine.hyperparameters import RESBLOCK_DILATIONS, RESBLOCK_KERNEL_SIZES, Hyperparameters
from rvc_engine.models.activation_checkpointing import ActivationCheckpointing
from rvc_engine.models.backend import BackendModule, run_fp32, to_fp32
from rvc_engine.models.weight_norm import CastConv1d, WeightNormConv1d, WeightNormConvTranspose1d

SLOPE = 0.1
SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003
UNVOICED_NOISE = SINE_AMPLITUDE / 3
SENSITIVE_STAGES = 1
"""Number of upsampling stages, the last ones, that are sensitive to rounding: it is audible in the wave, and turns the
gradients of both models."""


class SineSource(nn.Module):
    """A sine at the fundamental frequency in voiced frames, noise in unvoiced ones."""

    def __init__(self, sample_rate: int, hop_length: int) -> None:
        super().__init__()
        self.sample_rate, self.hop_length = sample_rate, hop_length
        self.l_linear = nn.Linear(1, 1)

    @torch.no_grad()
    def sine(self, f0: Tensor, noise: Tensor) -> Tensor:
        """f0 (B, T) Hz, noise (B, T * hop) of unit variance -> (B, T * hop).

        The phase starts at the first sample and is continuous over frames. It is summed over frames in cycles, in
        float64, so that a long clip stays in tune: on the CPU for devices without it.
        """
        device = f0.device if has_float64(f0.device) else torch.device("cpu")
        per_sample = f0.to(device).double() / self.sample_rate
        cycles = per_sample * self.hop_length
        start = cycles.cumsum(1) - cycles
        ramp = torch.arange(1, self.hop_length + 1, device=device, dtype=torch.float64)
        phase = (start.unsqueeze(2) + per_sample.unsqueeze(2) * ramp).frac().to(noise.dtype).flatten(1).to(f0.device)
        voiced = (f0 > 0).to(noise.dtype).repeat_interleave(self.hop_length, dim=1)
        wave = SINE_AMPLITUDE * torch.sin(2 * math.pi * phase) * voiced
        return wave + noise * (voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE)

    def forward(self, f0: Tensor, noise: Tensor) -> Tensor:
        """f0 (B, T) Hz, noise (B, T * hop) -> (B, 1, T * hop).

        A linear layer of one input and one output, written out because autocast would round an `nn.Linear`.
        """
        weight, bias = self.l_linear.weight.view(()), self.l_linear.bias.view(())
        return torch.tanh(self.sine(f0, noise).unsqueeze(1) * weight + bias)


class ResBlock(nn.Module):
    """Three residual pairs of convolutions, the first of each pair dilated."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> WeightNormConv1d:
            padding = dilation * (kernel_size - 1) // 2
            return WeightNormConv1d(channels, channels, kernel_size, padding=padding, dilation=dilation)

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class HifiGanDecoder(ActivationCheckpointing, BackendModule):
    """Decoder of latent frames to samples; with pitch, the sine source is added at every stage."""

    def __init__(self, hparams: Hyperparameters) -> None:
        super().__init__()
        widths = [hparams.upsample_initial_channels >> n for n in range(len(hparams.upsample_rates) + 1)]
        if hparams.f0:
            self.m_source = SineSource(hparams.sample_rate, hparams.hop_length)
            self.noise_convs = nn.ModuleList(
                self._noise_conv(width, math.prod(hparams.upsample_rates[stage + 1 :]))
                for stage, width in enumerate(widths[1:])
            )
        self.conv_pre = CastConv1d(hparams.hidden_channels, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(
            WeightNormConvTranspose1d(wide, narrow, kernel, rate, (kernel - rate) // 2)
            for (wide, narrow), kernel, rate in zip(
                pairwise(widths), hparams.upsample_kernel_sizes, hparams.upsample_rates, strict=True
            )
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations)
            for width in widths[1:]
            for kernel, dilations in zip(RESBLOCK_KERNEL_SIZES, RESBLOCK_DILATIONS, strict=True)
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)
        self.cond = CastConv1d(hparams.gin_channels, widths[0], 1)

    @staticmethod
    def _noise_conv(channels: int, stride: int) -> nn.Conv1d:
        """Convolution of the source down to a stage's sample rate; the last stage has the source's own."""
        if stride == 1:
            return nn.Conv1d(1, channels, 1)
        return nn.Conv1d(1, channels, 2 * stride, stride, padding=stride // 2)

    def forward(self, latent: Tensor, f0: Tensor | None, speaker: Tensor, noise: Tensor | None) -> Tensor:
        """latent (B, C, T), f0 (B, T) Hz, speaker (B, gin, 1), noise (B, T * hop) -> wave (B, 1, T * hop) in -1..1.

        `f0` and `noise` are None for a voice without pitch.
        """
        source = self.m_source(f0, noise) if f0 is not None else None
        x = self.conv_pre(latent) + self.cond(speaker)
        for stage in range(len(self.ups)):
            x = self._run_block(partial(self._stage, stage), x, source)
        return torch.tanh(run_fp32(self.conv_post, F.leaky_relu(x)))

    def _stage(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        """x (B, C, T), source (B, 1, samples) or None -> (B, C / 2, T * rate)."""
        upsample = partial(self._upsample, stage)
        if stage >= len(self.ups) - SENSITIVE_STAGES:
            return self.backend.run_sensitive(upsample, x, source)
        return upsample(x, source)

    def _upsample(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        """See `_stage`."""
        kernels = len(RESBLOCK_KERNEL_SIZES)
        x = self.ups[stage](F.leaky_relu(x, SLOPE))
        x = to_fp32(x) if stage == len(self.ups) - 1 else self.backend.residual_sum(x)
        if source is not None:
            x = x + run_fp32(self.noise_convs[stage], source).to(x.dtype)
        blocks = self.resblocks[stage * kernels : (stage + 1) * kernels]
        return torch.stack([block(x) for block in blocks]).mean(0)
