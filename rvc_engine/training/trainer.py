"""The train stage: epochs of steps, with checkpoints between them, from wherever the run was.

A step's randomness (segments, noise) and an epoch's order come from the seed and the step or epoch alone, so a run that
was interrupted goes on exactly as if it had not been.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rvc_engine.checkpoints.async_writer import AsyncCheckpointer
from rvc_engine.checkpoints.base_weights import load_base_weights
from rvc_engine.checkpoints.pairs import SavedPair, pairs_to_resume, resume
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs
from rvc_engine.compute.precision import MIN_LOSS_SCALE, Precision, use_tf32
from rvc_engine.compute.process_group import SINGLE_PROCESS, DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles, list_clips, write_filelist
from rvc_engine.data.speakers import Speakers
from rvc_engine.data.split import Split, split
from rvc_engine.errors import Diverged, GpuOutOfMemory, StopRequested
from rvc_engine.evaluation.runner import EvaluationRunner
from rvc_engine.events import CheckpointSaved, Metric
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.reporting import StageReport
from rvc_engine.training.batch_sampler import BatchSampler, GlobalBatch
from rvc_engine.training.cuda_graphs import CudaGraphCapturer, GraphedSteps, StepInputs
from rvc_engine.training.metrics import AsyncMetricReader
from rvc_engine.training.saver import CheckpointSaver
from rvc_engine.training.step import BatchTotals, StepResult, draw_starts, training_step
from rvc_engine.training.throughput import Throughput
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace

VERSION = 1

MIN_TIMED_STEPS = 8
"""`max_train_seconds` does not end training before so many steps."""
CHECKPOINT_SECONDS = 300
MAX_CHECKPOINT_TIME_FRACTION = 0.03
"""Saving may take this share of the time."""
SECONDS_BETWEEN_METRICS = 0.2
MAX_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.5
"""On the learning rate, each time a run that computes in float32 goes back after diverging."""


@dataclass(frozen=True)
class BaseWeights:
    """Files that training starts from, and a name that tells them from others."""

    generator: Path | None = None
    discriminators: Path | None = None
    identity: str = "none"


class _NotFinite(Exception):
    """A loss is NaN or infinite."""


def run(
    workspace: Workspace,
    config: TrainingConfig,
    device: torch.device,
    base: BaseWeights,
    features_identity: str,
    report: StageReport,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> TrainProgress:
    """Train to the end, or until the time is up; the result is the newest recovery checkpoint.

    Every rank calls this; rank 0 writes and reports. Raises StopRequested after saving a checkpoint when the run
    was asked to stop, Diverged, GpuOutOfMemory, DiskFull, IncompatibleCheckpoint, InvalidDataset, WorkspaceBusy.
    """
    if device.type == "cuda":
        use_tf32(config.tf32)
    with workspace.training_lock() if distributed.is_main else nullcontext():
        hparams = Hyperparameters.from_config(config)
        parts = distributed.broadcast_object(lambda: _find_clips(workspace, config, hparams, report))
        identity = _identity(config, base, features_identity)
        evaluation = (
            EvaluationRunner(workspace, config, hparams, device, parts, report) if distributed.is_main else None
        )
        store = RecoveryStore(workspace, identity)
        try:
            with AsyncCheckpointer() as checkpointer:
                trainer = _Trainer(
                    workspace,
                    config,
                    hparams,
                    device,
                    parts.trained,
                    store,
                    checkpointer,
                    evaluation,
                    report,
                    distributed,
                )
                trainer.prepare(base)
                return trainer.train()
        except torch.OutOfMemoryError as error:
            raise GpuOutOfMemory(
                "the device has no memory left for the nets themselves; free it of other programs, or use a smaller "
                "width"
            ) from error


def _find_clips(workspace: Workspace, config: TrainingConfig, hparams: Hyperparameters, report: StageReport) -> Split:
    """The clips to train on and those to evaluate with, listed for RVC's trainer too."""
    speakers = Speakers.from_workspace(workspace, config)
    clips, num_short = list_clips(workspace, hparams, speakers)
    _log_speakers(speakers, clips, report)
    if num_short:
        report.log(f"{num_short} slices are too short to train on, or lack features, and are left out")
    parts = split(clips, workspace.slices, config.evaluate)
    if parts.are_held_out:
        report.log(f"{len(parts.evaluated)} clips are held out of training, for evaluation")
    write_filelist(workspace, parts.trained, config.seed)
    return parts


def _log_speakers(speakers: Speakers, clips: Sequence[ClipFiles], report: StageReport) -> None:
    present = speakers.names_by_id(clip.speaker for clip in clips)
    if len(present) > 1:
        report.log(f"{len(present)} speakers: {', '.join(f'{name} is {number}' for number, name in present.items())}")
    if silent := [name for number, name in speakers.names.items() if number not in present]:
        report.warn(f"no slice of {', '.join(silent)} can be trained on: the voice will not know that speaker")


def _identity(config: TrainingConfig, base: BaseWeights, features_identity: str) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from; epochs, batch size and learning rate may change."""
    fields = ("version", "sample_rate", "f0", "width", "speaker_id", "seed")
    identity: dict[str, Any] = {name: getattr(config, name) for name in fields}
    if config.speakers != "one":
        identity["speakers"] = config.speakers
    return {**identity, "base weights": base.identity, "features": features_identity}


@dataclass(frozen=True)
class _DueActions:
    """Actions due after a step, reduced over all ranks, since each may see another clock or signal."""

    stop: bool
    """Someone asked for it."""
    end: bool
    """The time is up."""
    metrics: bool
    checkpoint: bool


class _Trainer:
    """One training run: train state, progress, and when metrics and checkpoints were last due."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        hparams: Hyperparameters,
        device: torch.device,
        clips: list[ClipFiles],
        store: RecoveryStore,
        checkpointer: AsyncCheckpointer,
        evaluation: EvaluationRunner | None,
        report: StageReport,
        distributed: DistributedContext,
    ) -> None:
        """`evaluation` is None on all ranks but the first."""
        self.checkpointer = checkpointer
        self.workspace, self.config, self.hparams, self.device = workspace, config, hparams, device
        self.clips, self.store, self.evaluation, self.report, self.distributed = (
            clips,
            store,
            evaluation,
            report,
            distributed,
        )
        self.precision = Precision.choose(config.precision, device)
        self.sampler: BatchSampler | None = None
        self.total_steps = 0
        self.throughput = Throughput(device, self.precision, distributed.world_size)
        self.last_metric = 0.0
        self.result: StepResult | None = None
        self.checkpoint_saver = (
            CheckpointSaver(workspace, config, hparams, checkpointer, evaluation, report)
            if evaluation is not None
            else None
        )
        self.metric_reader = AsyncMetricReader(device, is_blocking=distributed.world_size > 1)
        self.graphs: GraphedSteps | None = None

    def prepare(self, base: BaseWeights) -> None:
        """Build the train state and load the run's checkpoint, or the base weights at its beginning."""
        self.base = base
        self.graphs = None  # of other nets; their memory first
        self.metric_reader.discard()
        self.state = self._fresh_state()
        pairs = self.distributed.broadcast_object(
            lambda: pairs_to_resume(self.workspace.root, self.store.newest(), self.report.warn)
        )
        progress = None if pairs else self.store.load(self.state, self.report.warn)
        if self.sampler is None:
            self.sampler = self._create_sampler(progress)
        self.progress = progress = (
            self._start(self.sampler, pairs) if progress is None else self._resume(progress, self.sampler)
        )
        if self.evaluation is not None:
            self.evaluation.start(progress)
        if progress.is_full_precision:
            self.state.set_precision(self.precision.fp32())
        self.graphs = self._graphed_steps()
        self.result = None
        self.started = time.monotonic() - progress.seconds
        self.last_checkpoint = time.monotonic()
        self.saved_step = progress.step
        self.time_is_up = self._is_time_up(progress)
        if pairs:
            self._checkpoint()
            self.checkpointer.wait()

    def _graphed_steps(self) -> GraphedSteps | None:
        if self.device.type != "cuda":
            return None
        if self.distributed.world_size > 1:
            self.report.log("steps of several processes are taken without CUDA graphs, one kernel after another")
            return None
        assert self.sampler is not None
        sampler, capturer = self.sampler, CudaGraphCapturer(self.device)
        return GraphedSteps(self.state, capturer, sampler.max_frames, sampler.batch_sizes, self.report.log)

    def _fresh_state(self) -> GanTrainState:
        """A fresh train state, the same on every call and rank."""
        torch.manual_seed(self.config.seed)
        config = self.config
        return GanTrainState.build(
            self.hparams, self.device, config.learning_rate, self.precision, config.gradient_checkpointing
        )

    def _create_sampler(self, progress: TrainProgress | None) -> BatchSampler:
        """Once for a run, and before base weights are loaded, as trying out sizes spoils the nets."""
        config = self.config
        sampler = BatchSampler.from_config(self.clips, self.state, config, progress, self.distributed, self.report)
        self.total_steps = sampler.steps_per_epoch * config.total_epochs
        if config.batch_size == "auto" and progress is None:
            self.state = self._fresh_state()
        if self.distributed.is_main:
            text = self.hparams.workspace_config(config, sampler.micro_batch_size)
            write_atomically(self.workspace.hyperparameters, text.encode())
        how = f"{self.precision.name}{' with gradient checkpointing' if config.gradient_checkpointing else ''}"
        self.report.log(
            f"training {sampler}, {config.total_epochs} epochs, on {self.device} in {how}, "
            f"base weights: {self.base.identity}"
        )
        return sampler

    def _start(self, sampler: BatchSampler, pairs: list[SavedPair]) -> TrainProgress:
        """The progress of a run without a checkpoint: after a G_/D_ pair, or at the beginning, with base weights."""
        if (resumed := resume(pairs, self.state, self.config, self.report.warn)) is not None:
            epoch = resumed.epoch
            self.report.log(f"going on after epoch {epoch} of {resumed.pair.generator.name} and its D_ file")
            step = epoch * sampler.steps_per_epoch
            return TrainProgress(
                step, epoch + 1, 0, 0.0, sampler.batch_size, len(self.clips), resumed.learning_rate_scale
            )
        if self.base.generator is not None:
            load_base_weights(self.state.synthesizer, self.base.generator, "pretrained generator")
        if self.base.discriminators is not None:
            load_base_weights(self.state.discriminators, self.base.discriminators, "pretrained discriminator")
        return TrainProgress(0, 1, 0, 0.0, sampler.batch_size, len(self.clips))

    def _resume(self, progress: TrainProgress, sampler: BatchSampler) -> TrainProgress:
        """A checkpoint's progress in this dataset's epochs; the epoch's start when the batches are others now."""
        self.report.log(f"going on after step {progress.step}, in epoch {progress.epoch}")
        if (progress.batch_size, progress.num_clips) == (sampler.batch_size, len(self.clips)):
            return progress
        self.report.warn(
            "the batch size or the number of clips has changed since the checkpoint; its epoch starts anew"
        )
        return replace(progress, batch=0, batch_size=sampler.batch_size, num_clips=len(self.clips))

    def train(self) -> TrainProgress:
        """All remaining steps; goes back to the last checkpoint when losses stop being numbers."""
        while True:
            try:
                self._train_until_done()
                return self._finish()
            except _NotFinite as fault:
                self._restore_last_good(fault)

    def _train_until_done(self) -> None:
        assert self.sampler is not None
        while self._has_steps_left():
            self.state.set_learning_rate(self._learning_rate())
            for batch in self.sampler.epoch_batches(self.progress.epoch, self.progress.batch):
                self._step(self.sampler, batch)
                if not self._has_steps_left():
                    break

    def _has_steps_left(self) -> bool:
        return self.progress.epoch <= self.config.total_epochs and not self.time_is_up

    def _learning_rate(self) -> float:
        decay = self.config.lr_decay ** (self.progress.epoch - 1)
        return self.config.learning_rate * self.progress.learning_rate_scale * decay

    def _step(self, sampler: BatchSampler, batch: GlobalBatch) -> None:
        """One step on a global batch, and what is due after it."""
        started = time.monotonic()
        self.result = self._train_step(sampler, batch)
        self.metric_reader.throttle()
        seconds = time.monotonic() - self.started
        self.progress = replace(
            self.progress, step=self.progress.step + 1, batch=self.progress.batch + 1, seconds=seconds
        )
        due = self._due_actions()
        self.time_is_up = due.end
        if due.metrics:
            self._read_metrics(self.result)
        if self.progress.batch == sampler.steps_per_epoch:
            self.progress = replace(self.progress, epoch=self.progress.epoch + 1, batch=0)
        self.throughput.add(len(batch.clips), time.monotonic() - started)
        self.metric_reader.poll()
        self.checkpointer.poll()
        self._save_if_due()  # before the checkpoint: a run that goes on from that does not come back here
        if due.checkpoint:
            self._checkpoint()
        self._report_progress(due)

    def _train_step(self, sampler: BatchSampler, batch: GlobalBatch) -> StepResult:
        """Draw random numbers for the global batch, cut this rank's shard, and take the step."""
        rng = torch.Generator(self.device).manual_seed(self.config.seed * 2**31 + self.progress.step)
        starts = draw_starts(batch.lengths, self.hparams.segment_frames, rng)
        noise = Noise.draw(self.hparams, len(batch.clips), batch.frames, rng)
        totals = BatchTotals(len(batch.clips), batch.num_frames)
        shard, longest = self.distributed.shard(batch.clips), 0 if batch.batch is None else batch.batch.spec.shape[2]
        noise = Noise(noise.posterior[shard, :, :longest], None if noise.source is None else noise.source[shard])

        def eager() -> StepResult:
            with self.throughput.count_flops(len(starts[shard])):
                return training_step(self.state, batch.batch, starts[shard], noise, totals, sampler.micro_batcher)

        if self.graphs is None or batch.batch is None:
            return eager()
        return self.graphs.step(StepInputs(batch.batch, starts[shard], noise), sampler.micro_batcher, eager)

    def _due_actions(self) -> _DueActions:
        """The actions due by rank 0's clock, or by a stop request on any rank."""
        is_main = self.distributed.is_main
        flags = (self._is_time_up(self.progress), self._are_metrics_due(), self._is_checkpoint_due())
        return _DueActions(
            *self.distributed.all_reduce_flags([self.report.is_stopping, *(is_main and flag for flag in flags)])
        )

    def _are_metrics_due(self) -> bool:
        """On a GPU, where reading the losses waits for it, they are read only now and then."""
        is_free = self.device.type == "cpu" or self.progress.step == 1
        return is_free or time.monotonic() - self.last_metric >= SECONDS_BETWEEN_METRICS

    def _read_metrics(self, result: StepResult) -> None:
        """Start reading the losses; once read, they are checked for NaN and reported."""
        self.last_metric = time.monotonic()
        progress, learning_rate = self.progress, self._learning_rate()

        def on_values(read: list[float]) -> None:
            values = self._finite_values(read, progress.step)
            values["learning_rate"] = learning_rate
            values |= self.throughput.metrics
            self.report.event(Metric(step=progress.step, epoch=progress.epoch, values=values))

        self.metric_reader.submit(result.stacked(), on_values)

    def _finite_values(self, read: list[float], step: int) -> dict[str, float]:
        """The step's measures. Raises _NotFinite when they show that the nets are spoiled.

        In float16 a gradient beyond its range is no fault: that step left the weights alone, and the next has a smaller
        scale. A long row of such steps is one.
        """
        values = dict(zip(StepResult.NAMES, read, strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        scale = self.state.min_loss_scale if wrong else None
        if wrong and (scale is None or scale < MIN_LOSS_SCALE):
            raise _NotFinite(f"{', '.join(wrong)} at step {step}")
        return {name: value for name, value in values.items() if name not in wrong}

    def _check_finite(self) -> None:
        """Nothing is saved of nets that the last step spoiled; on a GPU not every step's losses were read."""
        self.metric_reader.flush()
        if self.result is not None:
            self._finite_values(self.result.stacked().tolist(), self.progress.step)

    def _is_checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every_steps
        if every is not None:
            return self.progress.step % every == 0
        wait = max(CHECKPOINT_SECONDS, self.store.last_save_seconds / MAX_CHECKPOINT_TIME_FRACTION)
        return time.monotonic() - self.last_checkpoint >= wait

    def _checkpoint(self) -> None:
        """Start saving the state as it is; an event is sent once it is whole."""
        self._check_finite()
        if self.distributed.is_main:
            progress = self.progress

            def on_saved(path: Path) -> None:
                self.report.event(CheckpointSaved(step=progress.step, epoch=progress.last_epoch, path=str(path)))

            self.checkpointer.submit(self.store.tree(self.state, progress), self.store.write, on_saved)
        self.last_checkpoint = time.monotonic()
        self.saved_step = self.progress.step

    def _report_progress(self, due: _DueActions) -> None:
        try:
            if due.stop:
                raise StopRequested
            done, total, eta = self._completion()
            self.report.progress(
                done,
                total,
                eta_seconds=eta,
                epoch=min(self.progress.epoch, self.config.total_epochs),
                total_epochs=self.config.total_epochs,
                step=self.progress.step,
                total_steps=self.total_steps,
                step_seconds=self.throughput.step_seconds,
                clips_per_second=self.throughput.clips_per_second,
                machine_share=self.throughput.mfu,
            )
        except StopRequested:
            if self.saved_step != self.progress.step:
                self._checkpoint()
            self.checkpointer.wait()
            raise

    def _completion(self) -> tuple[float, float, float | None]:
        """Progress by steps or by the clock, whichever is nearer to the end."""
        step, step_seconds, limit = (
            self.progress.step,
            self.throughput.step_seconds or 0.0,
            self.config.max_train_seconds,
        )
        remaining = (self.total_steps - step) * step_seconds
        if limit is None:
            return step, self.total_steps, remaining
        left = max(limit - self.progress.seconds, (MIN_TIMED_STEPS - step) * step_seconds, 0.0)
        fraction = min(self.progress.seconds / limit, step / MIN_TIMED_STEPS, 0.999)
        return max(fraction, step / self.total_steps), 1.0, min(left, remaining)

    def _is_time_up(self, progress: TrainProgress) -> bool:
        limit = self.config.max_train_seconds
        return limit is not None and progress.seconds >= limit and progress.step >= MIN_TIMED_STEPS

    def _save_if_due(self) -> None:
        epoch = completed_epochs(self.progress)
        is_over = self.progress.batch == 0 and epoch < self.config.total_epochs
        if is_over and epoch % self.config.save_every_epochs == 0:
            self._save()
        elif is_over and self.config.evaluate_every_epochs and epoch % self.config.evaluate_every_epochs == 0:
            self._check_finite()
            if self.evaluation is not None:
                self.evaluation.run(self.state.synthesizer, self.progress)

    def _save(self) -> None:
        """What `-se` asks for: a pair in the published form, and with `-sw` a small voice file; both are evaluated."""
        self._check_finite()
        if self.checkpoint_saver is not None:
            self.checkpoint_saver.save(self.state, self.progress)

    def _finish(self) -> TrainProgress:
        if self.saved_step != self.progress.step or self.progress.step == 0:
            self._checkpoint()
        self._save()
        self.checkpointer.wait()
        if self.progress.epoch <= self.config.total_epochs:
            self.report.log(
                f"the {self.config.max_train_seconds:g} s of training are over: {self.progress.step} steps, "
                f"in epoch {self.progress.last_epoch} of {self.config.total_epochs}"
            )
        return self.progress

    def _restore_last_good(self, fault: _NotFinite) -> None:
        """Back to the last good checkpoint, first in float32, then with ever lower learning rates.

        Raises Diverged after the third time.
        """
        rollbacks = self.progress.num_rollbacks + 1
        was_fp32 = self.state.precision.name == "fp32"
        scale = self.progress.learning_rate_scale * (ROLLBACK_FACTOR if was_fp32 else 1.0)
        if rollbacks > MAX_ROLLBACKS:
            raise Diverged(
                f"losses are no numbers any more ({fault}) after {MAX_ROLLBACKS} returns to a good checkpoint; use a "
                "lower learning_rate, or look for broken recordings in the dataset"
            )
        self.checkpointer.wait()
        self.prepare(self.base)
        self.progress = replace(
            self.progress,
            learning_rate_scale=scale,
            num_rollbacks=rollbacks,
            is_full_precision=self.precision.name != "fp32",
        )
        self.state.set_precision(self.precision.fp32())
        self.graphs = self._graphed_steps()
        how = f"with {scale:g} times the learning rate" if was_fp32 else f"in fp32 in place of {self.precision.name}"
        self.report.warn(f"losses are no numbers any more ({fault}); went back to step {self.progress.step} {how}")
