"""One training step: the discriminators' half, then the generator's half against the updated discriminators.

Both halves add up gradients over micro-batches and ranks before they change a weight. A batch that goes through in one
piece passes the generator once; in several pieces it passes twice, as no graph can be kept for the second half.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from rvc_engine.audio.mel import log_mel
from rvc_engine.checkpoints.train_state import Nets
from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import KL_WEIGHT, MEL_WEIGHT, Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, Posterior, cut_segments
from rvc_engine.models.weight_norm import weights_kept
from rvc_engine.training.micro_batches import MicroBatcher


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


@dataclass(frozen=True)
class Whole:
    """The effective batch that a step's means are taken over: all micro-batches of all ranks."""

    num_clips: int
    num_frames: Tensor | int
    """Of all clips, without padding: what the KL divergence is divided by."""


@dataclass(frozen=True)
class _Part:
    """Some clips of a batch with their random numbers."""

    batch: Batch
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise

    @property
    def num_clips(self) -> int:
        return len(self.starts)

    def cut(self, limit: int) -> "list[_Part]":
        """Into pieces of nearly equal size, of at most `limit` clips, each padded to its own longest clip."""
        num_pieces = math.ceil(self.num_clips / limit)
        if num_pieces <= 1:
            return [self]
        # On a GPU to the whole batch's padding: reading the lengths would wait for it.
        lengths, padded = self.batch.lengths, self.batch.spec.shape[2]
        frames = [padded] * self.num_clips if lengths.is_cuda else lengths.tolist()
        edges = [self.num_clips * n // num_pieces for n in range(num_pieces + 1)]
        return [self._clips(slice(*edge), max(frames[slice(*edge)])) for edge in pairwise(edges)]

    def _clips(self, some: slice, frames: int) -> "_Part":
        batch, noise = self.batch, self.noise
        return _Part(
            Batch(
                features=batch.features[some, :frames],
                coarse_f0=None if batch.coarse_f0 is None else batch.coarse_f0[some, :frames],
                f0=None if batch.f0 is None else batch.f0[some, :frames],
                spec=batch.spec[some, :, :frames],
                wave=batch.wave[some],
                lengths=batch.lengths[some],
                speakers=batch.speakers[some],
            ),
            self.starts[some],
            Noise(noise.posterior[some, :, :frames], None if noise.source is None else noise.source[some]),
        )

    def real(self, sizes: Hyperparameters) -> Tensor:
        """The recordings' segments (B, 1, samples)."""
        return cut_segments(self.batch.wave.unsqueeze(1), self.starts * sizes.hop_length, sizes.segment_samples)

    def target_mel(self, sizes: Hyperparameters) -> Tensor:
        """The recordings' log-mels (B, n_mels, segment frames)."""
        spec = cut_segments(self.batch.spec, self.starts, sizes.segment_frames)
        return log_mel(spec, sizes.sample_rate, sizes.n_mels)

    def speak(self, nets: Nets) -> Posterior:
        """The generator's pass, to be learnt from."""
        batch = self.batch
        with nets.precision.autocast():
            return nets.generator(  # type: ignore[no-any-return]
                batch.features,
                batch.coarse_f0,
                batch.f0,
                batch.spec,
                batch.lengths,
                batch.speakers,
                self.starts,
                self.noise,
            )

    def speak_again(self, nets: Nets) -> Tensor:
        """The same wave (B, 1, samples) without a graph."""
        batch = self.batch
        with nets.precision.autocast():
            return nets.generator.speak_again(
                batch.f0, batch.spec, batch.lengths, batch.speakers, self.starts, self.noise
            )


def training_step(
    nets: Nets,
    batch: Batch | None,
    starts: Tensor,
    noise: Noise,
    whole: Whole | None = None,
    micro_batches: MicroBatcher | None = None,
) -> StepResult:
    """One step of both nets. `starts` (B,) are the first frames of the segments.

    `batch`, `starts` and `noise` are this rank's; `whole` tells of the effective batch that it is a share of (alone:
    the batch itself). A rank without clips gives None. The batch goes through the nets in pieces as `micro_batches`
    says (none: at once), which changes cost and not result; the clips' order within it does neither.
    """
    if whole is None:
        assert batch is not None
        whole = Whole(len(batch.lengths), batch.lengths.sum())
    micro_batches = micro_batches or MicroBatcher(whole.num_clips)
    step = _Step(nets, None if batch is None else _Part(batch, starts, noise), whole, micro_batches.distributed)
    micro_batches.attempt(whole.num_clips, step.gather_for_discriminators, step.apply_to_discriminators)
    micro_batches.attempt(whole.num_clips, step.gather_for_generator, step.apply_to_generator)
    return step.result()


class _Step:
    """The two halves of a step. Each is gathered as often as memory asks for, and applied once."""

    def __init__(self, nets: Nets, part: _Part | None, whole: Whole, ranks: DistributedContext) -> None:
        self.nets, self.part, self.whole, self.ranks = nets, part, whole, ranks
        self.posterior: Posterior | None = None
        """Of the whole part, kept from one half for the other where it went through the nets at once."""

    def _pieces(self, limit: int) -> list[_Part]:
        return [] if self.part is None else self.part.cut(limit)

    def gather_for_discriminators(self, limit: int) -> tuple[Tensor, Tensor | None]:
        """Gradients that teach D to tell real from fake. Returns the loss (1,) and what ranks exchange."""
        nets, pieces = self.nets, self._pieces(limit)
        self.posterior = None
        prepare(nets.discriminator_optimizer)
        loss = nets.zeros(1)
        for piece in pieces:
            if len(pieces) == 1:
                self.posterior = piece.speak(nets)
                fake = self.posterior.wave.detach()
            else:
                fake = piece.speak_again(nets)
            with nets.precision.autocast():
                judgements = nets.discriminators(torch.cat([piece.real(nets.sizes), fake]))
            scores = [score.chunk(2) for score, _ in judgements]
            part_loss = losses.discriminator_loss(scores) * (piece.num_clips / self.whole.num_clips)
            nets.discriminator_scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        return loss, self.ranks.flatten_gradients(nets.discriminators, loss)

    def apply_to_discriminators(self, gathered: tuple[Tensor, Tensor | None]) -> None:
        """Let D take its step."""
        nets = self.nets
        self.disc = self.ranks.all_reduce_gradients(nets.discriminators, *gathered)
        self.grad_norm_d = _take_step(nets.discriminators, nets.discriminator_optimizer, nets.discriminator_scaler)

    def gather_for_generator(self, limit: int) -> tuple[Tensor, Tensor | None]:
        """Gradients that teach G against a D that stands still. Returns the losses (4,) and what ranks exchange."""
        nets, pieces = self.nets, self._pieces(limit)
        kept, self.posterior = self.posterior, None  # a graph serves one way back
        prepare(nets.generator_optimizer)
        values = nets.zeros(4)
        nets.discriminators.requires_grad_(False)
        try:
            with weights_kept(nets.discriminators, nets.precision.dtype):
                for piece in pieces:
                    posterior = kept if kept is not None and len(pieces) == 1 else piece.speak(nets)
                    part_losses = self._generator_losses(piece, posterior)
                    gen, fm, mel, kl = part_losses
                    nets.generator_scaler.scale(gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
                    values += torch.stack(part_losses).detach()
                    del posterior, part_losses, gen, fm, mel, kl
        finally:
            nets.discriminators.requires_grad_(True)
        return values, self.ranks.flatten_gradients(nets.generator, values)

    def _generator_losses(self, piece: _Part, posterior: Posterior) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A piece's share of the four weighted losses: adversarial, feature matching, mel, KL. Scalars."""
        nets, share = self.nets, piece.num_clips / self.whole.num_clips
        with nets.precision.autocast():
            with torch.no_grad():
                real_judgements = nets.discriminators(piece.real(nets.sizes))
            fake_judgements = nets.discriminators(posterior.wave)
        gen = losses.generator_loss(fake_judgements)
        fm = losses.feature_loss(real_judgements, fake_judgements)
        mel = MEL_WEIGHT * mel_distance(nets.sizes, posterior.wave, piece.target_mel(nets.sizes))
        kl = losses.kl_sum(
            posterior.latent_prior, posterior.log_std, posterior.prior_mean, posterior.prior_log_std, posterior.mask
        )
        return gen * share, fm * share, mel * share, KL_WEIGHT * kl / self.whole.num_frames

    def apply_to_generator(self, gathered: tuple[Tensor, Tensor | None]) -> None:
        """Let G take its step."""
        nets = self.nets
        self.gen, self.fm, self.mel, self.kl = self.ranks.all_reduce_gradients(nets.generator, *gathered).unbind()
        self.grad_norm_g = _take_step(nets.generator, nets.generator_optimizer, nets.generator_scaler)

    def result(self) -> StepResult:
        """What the step measured."""
        return StepResult(
            self.disc.squeeze(0), self.gen, self.fm, self.mel, self.kl, self.grad_norm_d, self.grad_norm_g
        )


def prepare(optimizer: AdamW) -> None:
    """Forget the last gradients, and take the memory of a first step beforehand: a step under way must not fail."""
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in optimizer.state:
                # As AdamW begins; the count lies beside the weights for the fused kernel alone.
                count = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                state = {"step": count, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                optimizer.state[p] = state


def _take_step(net: nn.Module, optimizer: AdamW, scaler: GradScaler) -> Tensor:
    """Change the weights by the gradients, unless float16 spoiled those. Returns the gradients' norm, on the device."""
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
    scaler.step(optimizer)
    scaler.update()
    return norm
