"""A training step by RVC WebUI's method on a GPU, with our models.

float16 autocast with one gradient scaler (float32 on a CPU); separate discriminator passes for real and fake segments,
with autograd recording of the second pass over real ones; unused weight gradients of the discriminators in the
generator's backward pass; gradient norms read tensor by tensor; AdamW with PyTorch's defaults.
"""

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from rvc_engine.audio.mel import log_mel
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import BETAS, EPSILON, MEL_WEIGHT, WEIGHT_DECAY, Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, cut_segments


class PlainSteps:
    """Models with their optimizers, and steps of them."""

    def __init__(self, hparams: Hyperparameters, device: torch.device, rate: float) -> None:
        self.hparams = hparams
        self.precision = Precision("fp16" if device.type == "cuda" else "fp32", device.type)
        self.state = GanTrainState.build(hparams, device, rate, self.precision)
        options = {"betas": BETAS, "eps": EPSILON, "weight_decay": WEIGHT_DECAY}
        self.generator_optimizer = torch.optim.AdamW(self.state.synthesizer.parameters(), rate, **options)  # type: ignore[arg-type]
        self.discriminator_optimizer = torch.optim.AdamW(self.state.discriminators.parameters(), rate, **options)  # type: ignore[arg-type]
        self.scaler = GradScaler(device.type, enabled=self.precision.name == "fp16")

    def take(self, batch: Batch, starts: Tensor, noise: Noise) -> Tensor:
        """Take a step; returns the five losses, on the device."""
        with self.precision.autocast():
            out = self.state.synthesizer(
                batch.features, batch.coarse_f0, batch.f0, batch.spec, batch.lengths, batch.speakers, starts, noise
            )
        real = cut_segments(batch.wave.unsqueeze(1), starts * self.hparams.hop_length, self.hparams.segment_samples)
        disc = self._teach_discriminators(real, out.wave.detach())
        target = log_mel(
            cut_segments(batch.spec, starts, self.hparams.segment_frames), self.hparams.sample_rate, self.hparams.n_mels
        )
        kl = losses.kl_sum(out.latent_prior, out.log_std, out.prior_mean, out.prior_log_std, out.mask) / out.mask.sum()
        mel = MEL_WEIGHT * mel_distance(self.hparams, out.wave, target)
        gen, fm = self._compare(real, out.wave)
        self.generator_optimizer.zero_grad()
        self.scaler.scale(gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.generator_optimizer)
        _read_norms(self.state.synthesizer)
        self.scaler.step(self.generator_optimizer)
        self.scaler.update()
        return torch.stack([each.detach().float() for each in (disc, gen, fm, mel, kl)])

    def _teach_discriminators(self, real: Tensor, fake: Tensor) -> Tensor:
        discriminators = self.state.discriminators
        with self.precision.autocast():
            pairs = list(zip(discriminators(real), discriminators(fake), strict=True))
        disc = losses.discriminator_loss([torch.cat([one[0], other[0]]) for one, other in pairs])
        self.discriminator_optimizer.zero_grad()
        self.scaler.scale(disc).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.discriminator_optimizer)
        _read_norms(discriminators)
        self.scaler.step(self.discriminator_optimizer)
        return disc

    def _compare(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        with self.precision.autocast():
            of_real, of_fake = self.state.discriminators(real), self.state.discriminators(fake)
        return losses.generator_loss(of_fake), losses.feature_loss(of_real, of_fake)


def _read_norms(model: nn.Module) -> float:
    return sum(float(p.grad.norm()) ** 2 for p in model.parameters() if p.grad is not None) ** 0.5
