"""Losses of a training step. Adversarial losses are least squares (LSGAN, Mao et al., 2017)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.backend import MeanDistances, to_fp32
from rvc_engine.models.discriminators import DiscriminatorOutput


def discriminator_loss(scores: Sequence[Tensor]) -> Tensor:
    """LSGAN discriminator loss, summed over discriminators: real scores to 1, fake ones to 0. A scalar.

    `scores` (2 B, N) of each discriminator are those of B real waves, then of B fake ones.
    """
    real, fake = to_fp32(torch.cat(tuple(scores), dim=1)).chunk(2)
    return _sum_of_means((1 - real).square() + fake.square(), scores)


def generator_loss(fake: list[DiscriminatorOutput]) -> Tensor:
    """LSGAN generator loss, summed over discriminators: fake scores to 1. A scalar."""
    scores = [score for score, _ in fake]
    return _sum_of_means((1 - to_fp32(torch.cat(scores, dim=1))).square(), scores)


def _sum_of_means(errors: Tensor, scores: Sequence[Tensor]) -> Tensor:
    """Sum of the discriminators' mean errors, (B, all N) of which lie side by side. A scalar."""
    sizes = tuple(score.shape[1] for score in scores)
    return errors.mean(0) @ _shares(sizes, errors.device, errors.dtype)


@lru_cache(maxsize=16)
def _shares(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Share of each score in the mean of its discriminator, (all N,)."""
    return torch.cat([torch.full((size,), 1 / size, dtype=dtype, device=device) for size in sizes])


def feature_loss(real: list[DiscriminatorOutput], fake: list[DiscriminatorOutput]) -> Tensor:
    """Feature matching loss: twice the mean absolute difference of each fake map to the real one, summed. A scalar."""
    real_maps, fake_maps = ([x for _, maps in outputs for x in maps] for outputs in (real, fake))
    distance: Tensor = MeanDistances.apply(*fake_maps, *real_maps)
    return 2 * distance


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
