"""One training step: the discriminators' half, then the generator's half against the updated discriminators."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rvc_engine import losses
from rvc_engine.hyperparameters import BETAS, EPSILON, KL_WEIGHT, MEL_WEIGHT, WEIGHT_DECAY, Hyperparameters
from rvc_engine.mel import log_mel, spectrogram
from rvc_engine.nets.discriminator import Discriminators
from rvc_engine.nets.synthesizer import Noise, Posterior, Synthesizer, cut_segments

PUBLISHED_WIDTH = 192


@dataclass(frozen=True)
class Batch:
    """Clips padded to the longest of them, on the device."""

    features: Tensor
    """(B, T, feature_size), content at 100 rows a second."""
    coarse_f0: Tensor | None
    """(B, T), pitch bins; None without pitch."""
    f0: Tensor | None
    """(B, T), Hz; None without pitch."""
    spec: Tensor
    """(B, bins, T), linear magnitudes."""
    wave: Tensor
    """(B, T * hop)."""
    lengths: Tensor
    """(B,), frames."""
    speakers: Tensor
    """(B,)."""


@dataclass
class Nets:
    """Both nets with their optimizers, on one device."""

    sizes: Hyperparameters
    generator: Synthesizer
    discriminators: Discriminators
    generator_optimizer: AdamW
    discriminator_optimizer: AdamW

    @classmethod
    def build(cls, sizes: Hyperparameters, device: torch.device, learning_rate: float) -> "Nets":
        """Fresh nets, initialised from PyTorch's global generator."""
        generator = Synthesizer(sizes).to(device)
        scale = sizes.hidden_channels / PUBLISHED_WIDTH
        discriminators = Discriminators(sizes.version, scale).to(device)
        return cls(
            sizes, generator, discriminators, _adamw(generator, learning_rate), _adamw(discriminators, learning_rate)
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """For both optimizers."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate


def _adamw(net: nn.Module, learning_rate: float) -> AdamW:
    return AdamW(net.parameters(), learning_rate, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True)


@dataclass(frozen=True)
class StepResult:
    """The weighted losses of one step and the gradients' norms, as scalars on the device: reading one waits for it."""

    disc: Tensor
    gen: Tensor
    fm: Tensor
    mel: Tensor
    kl: Tensor
    grad_norm_d: Tensor
    grad_norm_g: Tensor

    def stacked(self) -> Tensor:
        """All of them in one tensor (7,), in the order of `NAMES`."""
        values = (self.disc, self.gen, self.fm, self.mel, self.kl, self.grad_norm_d, self.grad_norm_g)
        return torch.stack([value.detach().float() for value in values])

    NAMES = ("loss/disc", "loss/gen", "loss/fm", "loss/mel", "loss/kl", "grad_norm/d", "grad_norm/g")


def draw_starts(lengths: Tensor, segment_frames: int, generator: torch.Generator) -> Tensor:
    """A random segment of each clip: first frames (B,), uniform over all places where a segment fits."""
    uniform = torch.rand(len(lengths), generator=generator, device=generator.device)
    return (uniform * (lengths - segment_frames + 1)).long()


def training_step(nets: Nets, batch: Batch, starts: Tensor, noise: Noise) -> StepResult:
    """One step of both nets. `starts` (B,) are the first frames of the segments."""
    posterior = nets.generator(
        batch.features, batch.coarse_f0, batch.f0, batch.spec, batch.lengths, batch.speakers, starts, noise
    )
    hop = nets.sizes.hop_length
    real = cut_segments(batch.wave.unsqueeze(1), starts * hop, nets.sizes.segment_samples)
    disc, grad_norm_d = discriminator_step(nets, real, posterior.wave.detach())
    target_mel = log_mel(
        cut_segments(batch.spec, starts, nets.sizes.segment_frames), nets.sizes.sample_rate, nets.sizes.n_mels
    )
    gen, fm, mel, kl, grad_norm_g = generator_step(nets, real, target_mel, posterior)
    return StepResult(disc, gen, fm, mel, kl, grad_norm_d, grad_norm_g)


def discriminator_step(nets: Nets, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Teach D to tell real from fake segments (B, 1, samples). Returns the loss and the gradient's norm."""
    judgements = nets.discriminators(torch.cat([real, fake]))
    loss = losses.discriminator_loss([score.chunk(2) for score, _ in judgements])
    nets.discriminator_optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = _gradient_norm(nets.discriminators)
    nets.discriminator_optimizer.step()
    return loss.detach(), norm


def generator_losses(
    nets: Nets, real: Tensor, target_mel: Tensor, posterior: Posterior
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four weighted losses of G: adversarial, feature matching, mel, KL. Scalars."""
    with torch.no_grad():
        real_judgements = nets.discriminators(real)
    fake_judgements = nets.discriminators(posterior.wave)
    gen = losses.generator_loss(fake_judgements)
    fm = losses.feature_loss(real_judgements, fake_judgements)
    mel = MEL_WEIGHT * mel_distance(nets.sizes, posterior.wave, target_mel)
    kl = losses.kl_sum(
        posterior.latent_prior, posterior.log_std, posterior.prior_mean, posterior.prior_log_std, posterior.mask
    )
    return gen, fm, mel, KL_WEIGHT * kl / posterior.mask.sum()


def mel_distance(sizes: Hyperparameters, wave: Tensor, target_mel: Tensor) -> Tensor:
    """Mean absolute log-mel difference of a wave (B, 1, samples) and a target (B, n_mels, frames). A scalar."""
    spec = spectrogram(wave.squeeze(1), sizes.n_fft, sizes.hop_length)
    return (log_mel(spec, sizes.sample_rate, sizes.n_mels) - target_mel).abs().mean()


def generator_step(
    nets: Nets, real: Tensor, target_mel: Tensor, posterior: Posterior
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Teach G against a D that stands still. Returns the four losses and the gradient's norm."""
    nets.discriminators.requires_grad_(False)
    try:
        gen, fm, mel, kl = generator_losses(nets, real, target_mel, posterior)
        nets.generator_optimizer.zero_grad()
        (gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
    finally:
        nets.discriminators.requires_grad_(True)
    norm = _gradient_norm(nets.generator)
    nets.generator_optimizer.step()
    return gen.detach(), fm.detach(), mel.detach(), kl.detach(), norm


def _gradient_norm(net: nn.Module) -> Tensor:
    """L2 norm over all gradients, on the device."""
    return nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
