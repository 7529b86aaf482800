"""One training step: the discriminators' half, then the generator's half against the updated discriminators.

Each half sums gradients over micro-batches and ranks before the optimizer changes a weight. A shard of one micro-batch
passes the generator once for both halves; several pass it twice, because only one autograd graph fits in memory.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import AdamW

from rvc_engine.audio.mel import log_mel
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, SynthesizerOutput, cut_segments
from rvc_engine.models.weight_norm import cached_weights, weights_at_once
from rvc_engine.training.micro_batches import MicroBatcher


@dataclass(frozen=True)
class StepResult:
    """The weighted losses of a step and the norms of its gradients: scalars on the device. Reading one waits for it."""

    disc: Tensor
    gen: Tensor
    fm: Tensor
    mel: Tensor
    kl: Tensor
    grad_norm_d: Tensor
    grad_norm_g: Tensor

    def stacked(self) -> Tensor:
        """All of them in one float32 tensor (7,), in the order of `NAMES`."""
        values = (self.disc, self.gen, self.fm, self.mel, self.kl, self.grad_norm_d, self.grad_norm_g)
        return torch.stack([value.detach().float() for value in values])

    NAMES = ("loss/disc", "loss/gen", "loss/fm", "loss/mel", "loss/kl", "grad_norm/d", "grad_norm/g")


@dataclass(frozen=True)
class BatchTotals:
    """Totals of the global batch, which a step's means are taken over: all micro-batches of all ranks."""

    num_clips: int
    num_frames: Tensor | int
    """Frames of all clips, without padding; the KL divergence is divided by them."""


@dataclass(frozen=True)
class StepInputs:
    """Clips of a batch with their random numbers."""

    batch: Batch
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise

    @property
    def num_clips(self) -> int:
        """B."""
        return len(self.starts)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order; without pitch there are fewer."""
        return [part for part in (*vars(self.batch).values(), self.starts, *self.noise) if part is not None]

    def static_clone(self) -> "StepInputs":
        """A copy in memory of its own, which a CUDA graph reads at every replay."""
        batch: list[Any] = [None if part is None else part.clone() for part in vars(self.batch).values()]
        noise: list[Any] = [None if part is None else part.clone() for part in self.noise]
        return StepInputs(Batch(*batch), self.starts.clone(), Noise(*noise))

    def copy_from(self, source: "StepInputs") -> None:
        """Overwrite these tensors with inputs of the same shape."""
        torch._foreach_copy_(self.tensors, source.tensors)

    def split(self, limit: int) -> "list[StepInputs]":
        """Micro-batches of about equal size and at most `limit` clips, each padded to its own longest clip."""
        num_micro_batches = math.ceil(self.num_clips / limit)
        if num_micro_batches <= 1:
            return [self]
        # On a GPU all have the whole batch's padding: reading the lengths would wait for the device.
        lengths, padded = self.batch.lengths, self.batch.spec.shape[2]
        frames = lengths.tolist() if lengths.device.type == "cpu" else [padded] * self.num_clips
        edges = [self.num_clips * n // num_micro_batches for n in range(num_micro_batches + 1)]
        return [self._slice(slice(*edge), max(frames[slice(*edge)])) for edge in pairwise(edges)]

    def _slice(self, clips: slice, frames: int) -> "StepInputs":
        batch, noise = self.batch, self.noise
        return StepInputs(
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

    @property
    def forward_arguments(self) -> tuple[Any, ...]:
        """The arguments of `Synthesizer.forward`."""
        b = self.batch
        return b.features, b.coarse_f0, b.f0, b.spec, b.lengths, b.speakers, self.starts, self.noise

    @property
    def generate_arguments(self) -> tuple[Any, ...]:
        """The arguments of `Synthesizer.generate`."""
        b = self.batch
        return b.f0, b.spec, b.lengths, b.speakers, self.starts, self.noise

    def real_segments(self, hparams: Hyperparameters) -> Tensor:
        """Segments of the recordings (B, 1, samples)."""
        return cut_segments(self.batch.wave.unsqueeze(1), self.starts * hparams.hop_length, hparams.segment_samples)

    def target_mel(self, hparams: Hyperparameters) -> Tensor:
        """Log-mels of the recordings' segments (B, n_mels, segment frames)."""
        spec = cut_segments(self.batch.spec, self.starts, hparams.segment_frames)
        return log_mel(spec, hparams.sample_rate, hparams.n_mels)


def draw_starts(lengths: Tensor, segment_frames: int, rng: torch.Generator) -> Tensor:
    """First frames (B,) of a random segment of each clip, uniform over all places where a segment fits."""
    uniform = torch.rand(len(lengths), generator=rng, device=rng.device)
    return (uniform * (lengths - segment_frames + 1)).long()


def training_step(
    state: GanTrainState,
    batch: Batch | None,
    starts: Tensor,
    noise: Noise,
    totals: BatchTotals | None = None,
    micro_batcher: MicroBatcher | None = None,
) -> StepResult:
    """Take one step of both models. `starts` (B,) are the first frames of the segments.

    `batch`, `starts` and `noise` are this rank's shard; `totals` are those of the global batch (None: of the shard). A
    rank without clips passes None as `batch`. `micro_batcher` limits the clips of a micro-batch (None: no limit), which
    changes the cost and not the result. Out of memory, a half is repeated with smaller micro-batches.
    """
    if totals is None:
        assert batch is not None
        totals = BatchTotals(len(batch.lengths), batch.lengths.sum())
    micro_batcher = micro_batcher or MicroBatcher(totals.num_clips)
    distributed = micro_batcher.distributed
    shard = None if batch is None else StepInputs(batch, starts, noise)
    output: SynthesizerOutput | None = None
    grad_norm_d: Tensor | None = None
    while True:
        try:
            micro_batches = [] if shard is None else shard.split(micro_batcher.limit)
            if grad_norm_d is None:  # else a retry: D has taken its step
                with micro_batcher.synchronized():
                    if len(micro_batches) == 1:
                        with training_pass(state, state.synthesizer):
                            output = state.synthesizer(*micro_batches[0].forward_arguments)
                    d_loss = discriminator_backward(state, micro_batches, output, totals)
                    flat = distributed.flatten_gradients(state.discriminators, d_loss)
                d_loss = distributed.all_reduce_gradients(state.discriminators, d_loss, flat)
                grad_norm_d = optimizer_step(
                    state.discriminators, state.discriminator_optimizer, state.discriminator_scaler
                )
            with micro_batcher.synchronized():
                g_losses = generator_backward(state, micro_batches, output, totals)
                flat = distributed.flatten_gradients(state.synthesizer, g_losses)
            g_losses = distributed.all_reduce_gradients(state.synthesizer, g_losses, flat)
            grad_norm_g = optimizer_step(state.synthesizer, state.generator_optimizer, state.generator_scaler)
            gen, fm, mel, kl = g_losses.unbind()
            return StepResult(d_loss.squeeze(0), gen, fm, mel, kl, grad_norm_d, grad_norm_g)
        except RuntimeError as error:
            if not micro_batcher.can_retry(error):
                raise
        output = None  # here and not in the handler, where the error's traceback keeps the autograd graph alive
        reset_scalers(state)
        micro_batcher.halve(totals.num_clips)


@contextmanager
def training_pass(state: GanTrainState, model: nn.Module) -> Iterator[None]:
    """Context of a model's forward pass with gradients, in the state's number format."""
    is_recomputed = model is state.synthesizer and state.checkpoints_activations
    at_once = _computes_weights_at_once(state) and not is_recomputed
    with state.precision.autocast(), weights_at_once(model, state.precision.dtype) if at_once else nullcontext():
        yield


def _computes_weights_at_once(state: GanTrainState) -> bool:
    """Whether a model's weights are computed all at once: on GPUs, where each layer by itself is a few kernels."""
    return state.device.type != "cpu" and state.precision.name != "bf16"  # in bfloat16 some layers are in float32


def discriminator_backward(
    state: GanTrainState, micro_batches: list[StepInputs], output: SynthesizerOutput | None, totals: BatchTotals
) -> Tensor:
    """Accumulate D's gradients. `output` is the generator's for a single micro-batch, None for several.

    Returns the loss (1,).
    """
    zero_grad_and_init(state.discriminator_optimizer)
    loss = state.zeros(1)
    for micro_batch in micro_batches:
        with state.precision.autocast():
            fake = state.synthesizer.generate(*micro_batch.generate_arguments) if output is None else output.wave
        with training_pass(state, state.discriminators):
            outputs = state.discriminate(torch.cat([micro_batch.real_segments(state.hparams), fake.detach()]))
        share = micro_batch.num_clips / totals.num_clips
        micro_batch_loss = losses.discriminator_loss([score for score, _ in outputs]) * share
        state.discriminator_scaler.scale(micro_batch_loss).backward()  # type: ignore[no-untyped-call]
        loss += micro_batch_loss.detach()
    return loss


def generator_backward(
    state: GanTrainState, micro_batches: list[StepInputs], output: SynthesizerOutput | None, totals: BatchTotals
) -> Tensor:
    """Accumulate G's gradients against the frozen D. `output` is the generator's, or None: it is computed here.

    Returns the weighted losses (4,): adversarial, feature matching, mel, KL.
    """
    if state.device.type != "cpu":  # where memory is short: this half has no use for D's gradients
        state.discriminator_optimizer.zero_grad()
    zero_grad_and_init(state.generator_optimizer)
    sums = state.zeros(4)
    state.discriminators.requires_grad_(False)
    try:
        at_once = _computes_weights_at_once(state)
        with (weights_at_once if at_once else cached_weights)(state.discriminators, state.precision.dtype):
            for micro_batch in micro_batches:
                sums += _micro_batch_backward(state, micro_batch, output, totals)
    finally:
        state.discriminators.requires_grad_(True)
    return sums


def _micro_batch_backward(
    state: GanTrainState, micro_batch: StepInputs, output: SynthesizerOutput | None, totals: BatchTotals
) -> Tensor:
    """Add a micro-batch's part to G's gradients. Returns its part of the four weighted losses (4,)."""
    hparams, share = state.hparams, micro_batch.num_clips / totals.num_clips
    if output is None:
        with training_pass(state, state.synthesizer):
            output = state.synthesizer(*micro_batch.forward_arguments)
    with state.precision.autocast():
        with torch.no_grad():
            real_outputs = state.discriminate(micro_batch.real_segments(hparams))
        fake_outputs = state.discriminate(output.wave)
    gen = losses.generator_loss(fake_outputs) * share
    fm = losses.feature_loss(real_outputs, fake_outputs) * share
    mel = hparams.mel_weight * mel_distance(hparams, output.wave, micro_batch.target_mel(hparams)) * share
    kl = losses.kl_sum(output.latent_prior, output.log_std, output.prior_mean, output.prior_log_std, output.mask)
    kl = hparams.kl_weight * kl / totals.num_frames
    state.generator_scaler.scale(gen + fm + mel + kl).backward()  # type: ignore[no-untyped-call]
    return torch.stack([gen, fm, mel, kl]).detach()


def zero_grad_and_init(optimizer: AdamW) -> None:
    """Clear the gradients and allocate the optimizer's state before its first step, which then needs no memory."""
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in optimizer.state:
                # The values AdamW starts from; only the fused kernel has the count on the weights' device.
                count = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                state = {"step": count, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                optimizer.state[p] = state


def optimizer_step(model: nn.Module, optimizer: AdamW, scaler: GradScaler) -> Tensor:
    """Update the weights, unless a float16 gradient overflowed. Returns the gradients' norm, on the device."""
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    scaler.step(optimizer)
    scaler.update()
    return norm


def reset_scalers(state: GanTrainState) -> None:
    """Replace the gradient scalers by fresh ones with the same scales.

    A scaler whose optimizer step was interrupted refuses the next one: `unscale_` has already been called.
    """
    scales = [scaler.state_dict() for scaler in (state.generator_scaler, state.discriminator_scaler)]
    state.set_precision(state.precision)
    for scaler, scale in zip((state.generator_scaler, state.discriminator_scaler), scales, strict=True):
        if scale:  # empty unless in float16
            scaler.load_state_dict(scale)
