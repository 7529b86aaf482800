"""Losses of a training step. Adversarial losses are least squares (LSGAN, Mao et al., 2017)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.backend import MeanDistance, to_fp32
from rvc_engine.models.discriminators import DiscriminatorOutput


def discriminator_loss(scores: Iterable[Sequence[Tensor]]) -> Tensor:
    """LSGAN discriminator loss, summed over discriminators: real scores to 1, fake ones to 0. A scalar."""
    return torch.stack(
        [(1 - to_fp32(real)).square().mean() + to_fp32(fake).square().mean() for real, fake in scores]
    ).sum()


def generator_loss(fake: list[DiscriminatorOutput]) -> Tensor:
    """LSGAN generator loss, summed over discriminators: fake scores to 1. A scalar."""
    return torch.stack([(1 - to_fp32(score)).square().mean() for score, _ in fake]).sum()


def feature_loss(real: list[DiscriminatorOutput], fake: list[DiscriminatorOutput]) -> Tensor:
    """Feature matching loss: twice the mean absolute difference of each fake map to the real one, summed. A scalar."""
    return (
        2
        * torch.stack(
            [
                MeanDistance.apply(f, r.detach())
                for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
                for r, f in zip(real_maps, fake_maps, strict=True)
            ]
        ).sum()
    )


def kl_sum(latent_prior: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor, mask: Tensor) -> Tensor:
    """KL divergence of posterior from prior, summed over channels and unmasked frames. All (B, C, T). A scalar.

    Divide it by the number of unmasked frames of the whole effective batch.
    """
    kl = prior_log_std - log_std - 0.5 + 0.5 * (latent_prior - prior_mean).square() * (-2 * prior_log_std).exp()
    return (kl * mask).sum()


def mel_distance(hparams: Hyperparameters, wave: Tensor, target_mel: Tensor) -> Tensor:
    """Mean absolute log-mel difference of a wave (B, 1, samples) and a target (B, n_mels, frames). A scalar."""
    spec = spectrogram(wave.squeeze(1), hparams.n_fft, hparams.hop_length)
    return (log_mel(spec, hparams.sample_rate, hparams.n_mels) - target_mel).abs().mean()
