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
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import KL_WEIGHT, MEL_WEIGHT, Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, SynthesizerOutput, cut_segments
from rvc_engine.models.weight_norm import cached_weights
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


def draw_starts(lengths: Tensor, segment_frames: int, rng: torch.Generator) -> Tensor:
    """A random segment of each clip: first frames (B,), uniform over all places where a segment fits."""
    uniform = torch.rand(len(lengths), generator=rng, device=rng.device)
    return (uniform * (lengths - segment_frames + 1)).long()


@dataclass(frozen=True)
class BatchTotals:
    """Totals of the global batch that a step's means are taken over: all micro-batches of all ranks."""

    num_clips: int
    num_frames: Tensor | int
    """Of all clips, without padding: what the KL divergence is divided by."""


@dataclass(frozen=True)
class _MicroBatch:
    """Some clips of a batch with their random numbers."""

    batch: Batch
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise

    @property
    def num_clips(self) -> int:
        return len(self.starts)

    def split(self, limit: int) -> "list[_MicroBatch]":
        """Split into micro-batches of about equal size, at most `limit` clips, each padded to its own longest clip."""
        num_micro_batches = math.ceil(self.num_clips / limit)
        if num_micro_batches <= 1:
            return [self]
        # On a GPU to the whole batch's padding: reading the lengths would wait for it.
        lengths, padded = self.batch.lengths, self.batch.spec.shape[2]
        frames = [padded] * self.num_clips if lengths.is_cuda else lengths.tolist()
        edges = [self.num_clips * n // num_micro_batches for n in range(num_micro_batches + 1)]
        return [self._slice(slice(*edge), max(frames[slice(*edge)])) for edge in pairwise(edges)]

    def _slice(self, clips: slice, frames: int) -> "_MicroBatch":
        batch, noise = self.batch, self.noise
        return _MicroBatch(
            Batch(
                features=batch.features[clips, :frames],
                coarse_f0=None if batch.coarse_f0 is None else batch.coarse_f0[clips, :frames],
                f0=None if batch.f0 is None else batch.f0[clips, :frames],
                spec=batch.spec[clips, :, :frames],
                wave=batch.wave[clips],
                lengths=batch.lengths[clips],
                speakers=batch.speakers[clips],
            ),
            self.starts[clips],
            Noise(noise.posterior[clips, :, :frames], None if noise.source is None else noise.source[clips]),
        )

    def real_segments(self, hparams: Hyperparameters) -> Tensor:
        """The recordings' segments (B, 1, samples)."""
        return cut_segments(self.batch.wave.unsqueeze(1), self.starts * hparams.hop_length, hparams.segment_samples)

    def target_mel(self, hparams: Hyperparameters) -> Tensor:
        """The recordings' log-mels (B, n_mels, segment frames)."""
        spec = cut_segments(self.batch.spec, self.starts, hparams.segment_frames)
        return log_mel(spec, hparams.sample_rate, hparams.n_mels)

    def generator_forward(self, state: GanTrainState) -> SynthesizerOutput:
        """Generator forward with autograd."""
        batch = self.batch
        with state.precision.autocast():
            return state.synthesizer(  # type: ignore[no-any-return]
                batch.features,
                batch.coarse_f0,
                batch.f0,
                batch.spec,
                batch.lengths,
                batch.speakers,
                self.starts,
                self.noise,
            )

    def generate(self, state: GanTrainState) -> Tensor:
        """The same wave (B, 1, samples) without autograd."""
        batch = self.batch
        with state.precision.autocast():
            return state.synthesizer.generate(
                batch.f0, batch.spec, batch.lengths, batch.speakers, self.starts, self.noise
            )


def training_step(
    state: GanTrainState,
    batch: Batch | None,
    starts: Tensor,
    noise: Noise,
    totals: BatchTotals | None = None,
    micro_batcher: MicroBatcher | None = None,
) -> StepResult:
    """Take one step of both models. `starts` (B,) are the first frames of the segments.

    `batch`, `starts` and `noise` are this rank's shard; `totals` are those of the global batch (None: of the shard).
    A rank without clips passes no batch. `micro_batcher` splits the shard (None: no split), which changes cost and not
    the result; the clips' order within it does neither.
    """
    if totals is None:
        assert batch is not None
        totals = BatchTotals(len(batch.lengths), batch.lengths.sum())
    micro_batcher = micro_batcher or MicroBatcher(totals.num_clips)
    step = _Step(state, None if batch is None else _MicroBatch(batch, starts, noise), totals, micro_batcher.distributed)
    micro_batcher.attempt(totals.num_clips, step.backward_discriminators, step.step_discriminators)
    micro_batcher.attempt(totals.num_clips, step.backward_generator, step.step_generator)
    return step.result()


class _Step:
    """The two halves of a step. Each `backward` may run again when memory runs out; each `step` runs once."""

    def __init__(
        self, state: GanTrainState, batch: _MicroBatch | None, totals: BatchTotals, distributed: DistributedContext
    ) -> None:
        self.state, self.batch, self.totals, self.distributed = state, batch, totals, distributed
        self.output: SynthesizerOutput | None = None
        """The generator's output, kept for the generator's half where the shard is one micro-batch."""

    def _micro_batches(self, limit: int) -> list[_MicroBatch]:
        return [] if self.batch is None else self.batch.split(limit)

    def backward_discriminators(self, limit: int) -> tuple[Tensor, Tensor | None]:
        """Accumulate D's gradients. Returns the loss (1,) and the flat gradients to all-reduce."""
        state, micro_batches = self.state, self._micro_batches(limit)
        self.output = None
        zero_grad_and_init(state.discriminator_optimizer)
        loss = state.zeros(1)
        for micro_batch in micro_batches:
            if len(micro_batches) == 1:
                self.output = micro_batch.generator_forward(state)
                fake = self.output.wave.detach()
            else:
                fake = micro_batch.generate(state)
            with state.precision.autocast():
                outputs = state.discriminators(torch.cat([micro_batch.real_segments(state.hparams), fake]))
            scores = [score.chunk(2) for score, _ in outputs]
            micro_batch_loss = losses.discriminator_loss(scores) * (micro_batch.num_clips / self.totals.num_clips)
            state.discriminator_scaler.scale(micro_batch_loss).backward()  # type: ignore[no-untyped-call]
            loss += micro_batch_loss.detach()
        return loss, self.distributed.flatten_gradients(state.discriminators, loss)

    def step_discriminators(self, flat: tuple[Tensor, Tensor | None]) -> None:
        """Optimizer step for D."""
        state = self.state
        self.disc = self.distributed.all_reduce_gradients(state.discriminators, *flat)
        self.grad_norm_d = _optimizer_step(
            state.discriminators, state.discriminator_optimizer, state.discriminator_scaler
        )

    def backward_generator(self, limit: int) -> tuple[Tensor, Tensor | None]:
        """Accumulate G's gradients with D frozen. Returns the losses (4,) and the flat gradients to all-reduce."""
        state, micro_batches = self.state, self._micro_batches(limit)
        kept, self.output = self.output, None  # a graph serves one way back
        zero_grad_and_init(state.generator_optimizer)
        values = state.zeros(4)
        state.discriminators.requires_grad_(False)
        try:
            with cached_weights(state.discriminators, state.precision.dtype):
                for micro_batch in micro_batches:
                    output = (
                        kept if kept is not None and len(micro_batches) == 1 else micro_batch.generator_forward(state)
                    )
                    micro_batch_losses = self._generator_losses(micro_batch, output)
                    gen, fm, mel, kl = micro_batch_losses
                    state.generator_scaler.scale(gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
                    values += torch.stack(micro_batch_losses).detach()
                    del output, micro_batch_losses, gen, fm, mel, kl
        finally:
            state.discriminators.requires_grad_(True)
        return values, self.distributed.flatten_gradients(state.synthesizer, values)

    def _generator_losses(
        self, micro_batch: _MicroBatch, output: SynthesizerOutput
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A micro-batch's share of the four weighted losses: adversarial, feature matching, mel, KL. Scalars."""
        state, share = self.state, micro_batch.num_clips / self.totals.num_clips
        with state.precision.autocast():
            with torch.no_grad():
                real_outputs = state.discriminators(micro_batch.real_segments(state.hparams))
            fake_outputs = state.discriminators(output.wave)
        gen = losses.generator_loss(fake_outputs)
        fm = losses.feature_loss(real_outputs, fake_outputs)
        mel = MEL_WEIGHT * mel_distance(state.hparams, output.wave, micro_batch.target_mel(state.hparams))
        kl = losses.kl_sum(output.latent_prior, output.log_std, output.prior_mean, output.prior_log_std, output.mask)
        return gen * share, fm * share, mel * share, KL_WEIGHT * kl / self.totals.num_frames

    def step_generator(self, flat: tuple[Tensor, Tensor | None]) -> None:
        """Optimizer step for G."""
        state = self.state
        self.gen, self.fm, self.mel, self.kl = self.distributed.all_reduce_gradients(state.synthesizer, *flat).unbind()
        self.grad_norm_g = _optimizer_step(state.synthesizer, state.generator_optimizer, state.generator_scaler)

    def result(self) -> StepResult:
        """What the step measured."""
        return StepResult(
            self.disc.squeeze(0), self.gen, self.fm, self.mel, self.kl, self.grad_norm_d, self.grad_norm_g
        )


def zero_grad_and_init(optimizer: AdamW) -> None:
    """Clear gradients, and allocate optimizer state before the first step: a step under way must not fail."""
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in optimizer.state:
                # As AdamW begins; the count lies beside the weights for the fused kernel alone.
                count = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                state = {"step": count, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                optimizer.state[p] = state


def _optimizer_step(model: nn.Module, optimizer: AdamW, scaler: GradScaler) -> Tensor:
    """Change the weights by the gradients, unless float16 spoiled those. Returns the gradients' norm, on the device."""
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    scaler.step(optimizer)
    scaler.update()
    return norm
