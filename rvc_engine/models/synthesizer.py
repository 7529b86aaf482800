"""Synthesizer of RVC: text encoder, posterior encoder, flow and decoder, with the published names.

Random numbers are inputs, as a `Noise`, so that a step can be repeated exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.decoder import HifiGanDecoder
from rvc_engine.models.encoders import PosteriorEncoder, TextEncoder, frame_mask
from rvc_engine.models.flow import Flow

PRIOR_NOISE_SCALE = 0.66666
"""Factor of the prior's noise at inference, as in the reference."""


class Noise(NamedTuple):
    """The random numbers of one training step."""

    posterior: Tensor
    """(B, hidden, T), standard normal."""
    source: Tensor | None
    """(B, segment samples), standard normal; None without pitch."""

    @classmethod
    def draw(cls, hparams: Hyperparameters, batch: int, frames: int, rng: torch.Generator) -> "Noise":
        """Draw the noise of one step, on the device of `rng`."""
        device = rng.device
        posterior = torch.randn(batch, hparams.hidden_channels, frames, generator=rng, device=device)
        source = None
        if hparams.f0:
            source = torch.randn(batch, hparams.segment_samples, generator=rng, device=device)
        return cls(posterior, source)


@dataclass(frozen=True)
class SynthesizerOutput:
    """Output of the synthesizer's training pass. All but `wave` and `mask` are (B, C, T)."""

    wave: Tensor
    """(B, 1, segment samples)."""
    mask: Tensor
    """(B, 1, T)."""
    prior_mean: Tensor
    prior_log_std: Tensor
    log_std: Tensor
    latent_prior: Tensor
    """The posterior's latent, mapped by the flow."""


def cut_segments(x: Tensor, starts: Tensor, length: int) -> Tensor:
    """Segment of each clip along the last axis: x (B, ..., T), starts (B,) -> (B, ..., length)."""
    index = starts[:, None] + torch.arange(length, device=x.device)
    index = index.view(len(x), *[1] * (x.ndim - 2), length).expand(*x.shape[:-1], length)
    return x.gather(-1, index)


class Synthesizer(nn.Module):
    """Generator of the GAN. State dict names and shapes are those of published RVC weights."""

    def __init__(self, hparams: Hyperparameters, with_posterior: bool = True) -> None:
        """`with_posterior=False` leaves out the posterior encoder, which only training needs, as a voice file does."""
        super().__init__()
        self.hparams = hparams
        channels, gin = hparams.hidden_channels, hparams.gin_channels

        def text_encoder() -> TextEncoder:
            return TextEncoder(hparams.feature_size, channels, hparams.filter_channels, hparams.f0)

        # Published files number optimizer entries by the order of parameters, which differs between v1 and v2.
        if hparams.version == "v1":
            self.enc_p = text_encoder()
        self.dec = HifiGanDecoder(hparams)
        self.decode: Callable[..., Tensor] | None = None
        """The decoder in a form for training passes, such as a compiled one; None: itself."""
        if with_posterior:
            self.enc_q = PosteriorEncoder(hparams.spec_channels, channels, gin)
        self.flow = Flow(channels, gin)
        self.emb_g = nn.Embedding(hparams.num_speakers, gin)
        if hparams.version == "v2":
            self.enc_p = text_encoder()

    def forward(
        self,
        features: Tensor,
        coarse_f0: Tensor | None,
        f0: Tensor | None,
        spec: Tensor,
        lengths: Tensor,
        speakers: Tensor,
        starts: Tensor,
        noise: Noise,
    ) -> SynthesizerOutput:
        """Training pass: encode a spectrogram and decode a segment of its latent.

        features (B, T, feature_size); coarse_f0 (B, T) bins and f0 (B, T) Hz, or None; spec (B, bins, T); lengths,
        speakers and starts (B,), in frames.
        """
        speaker = self.emb_g(speakers).unsqueeze(2)
        mask = frame_mask(lengths, spec.shape[2], spec.dtype)
        prior_mean, prior_log_std = self.enc_p(features, coarse_f0, mask)
        latent, _, log_std = self.enc_q(spec, mask, speaker, noise.posterior)
        wave = self._decode_segments(self.decode or self.dec, latent, f0, speaker, starts, noise)
        return SynthesizerOutput(
            wave, mask, prior_mean, prior_log_std, log_std, latent_prior=self.flow(latent, mask, speaker)
        )

    @torch.no_grad()
    def generate(
        self, f0: Tensor | None, spec: Tensor, lengths: Tensor, speakers: Tensor, starts: Tensor, noise: Noise
    ) -> Tensor:
        """Wave (B, 1, segment samples) of a training pass, without gradients and without the prior."""
        speaker = self.emb_g(speakers).unsqueeze(2)
        mask = frame_mask(lengths, spec.shape[2], spec.dtype)
        latent, _, _ = self.enc_q(spec, mask, speaker, noise.posterior)
        return self._decode_segments(self.dec, latent, f0, speaker, starts, noise)

    def _decode_segments(
        self,
        decode: Callable[..., Tensor],
        latent: Tensor,
        f0: Tensor | None,
        speaker: Tensor,
        starts: Tensor,
        noise: Noise,
    ) -> Tensor:
        frames = self.hparams.segment_frames
        segment_f0 = cut_segments(f0, starts, frames) if f0 is not None else None
        return decode(cut_segments(latent, starts, frames), segment_f0, speaker, noise.source)

    @torch.no_grad()
    def infer(
        self,
        features: Tensor,
        coarse_f0: Tensor | None,
        f0: Tensor | None,
        lengths: Tensor,
        speakers: Tensor,
        prior_noise: Tensor,
        source_noise: Tensor | None,
    ) -> Tensor:
        """Inference: content features and pitch to a wave (B, 1, T * hop).

        prior_noise (B, hidden, T), scaled by PRIOR_NOISE_SCALE; source_noise (B, T * hop).
        """
        speaker = self.emb_g(speakers).unsqueeze(2)
        mask = frame_mask(lengths, features.shape[1], features.dtype)
        mean, log_std = self.enc_p(features, coarse_f0, mask)
        latent = self.flow((mean + log_std.exp() * prior_noise) * mask, mask, speaker, reverse=True)
        return self.dec(latent * mask, f0, speaker, source_noise)
