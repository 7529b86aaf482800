"""The train stage: epochs of steps with checkpoints between them, resumed from the newest one.

A step's random numbers (segments, noise) and an epoch's order depend on the seed and on the step or epoch alone, so an
interrupted run continues exactly as if it had not been interrupted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rvc_engine.checkpoints.async_writer import AsyncCheckpointer
from rvc_engine.checkpoints.base_weights import load_base_weights
from rvc_engine.checkpoints.pairs import SavedPair, pairs_to_resume, resume
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.step_numbers import step_above
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs
from rvc_engine.compute.accelerators import has_graphs
from rvc_engine.compute.compilation import Compiler, keep_in_users_cache
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.precision import Precision, use_tf32
from rvc_engine.compute.process_group import SINGLE_PROCESS, DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.found import find_clips
from rvc_engine.data.split import Split
from rvc_engine.errors import Diverged, GpuOutOfMemory, StopRequested
from rvc_engine.evaluation.runner import EvaluationRunner
from rvc_engine.events import CheckpointSaved, EndReason
from rvc_engine.models.synthesizer import Noise
from rvc_engine.reporting import StageReport
from rvc_engine.training.batch_sampler import BatchSampler, GlobalBatch
from rvc_engine.training.cuda_graphs import CudaGraphCapturer, GraphedSteps, are_enabled
from rvc_engine.training.micro_batches import free_cached_memory
from rvc_engine.training.progress import NotFinite, ProgressReporter, finite_values
from rvc_engine.training.saver import CheckpointSaver
from rvc_engine.training.schedule import DueActions, Schedule
from rvc_engine.training.step import BatchTotals, StepInputs, StepResult, draw_starts, training_step
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file

VERSION = 1

MAX_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.5
"""Factor on the learning rate each time that a run in float32 goes back after diverging."""


@dataclass(frozen=True)
class BaseWeights:
    """Files that training starts from, and a text that identifies them."""

    generator: Path | None = None
    discriminators: Path | None = None
    identity: str = "none"


def run(
    workspace: Workspace,
    config: TrainingConfig,
    device: torch.device,
    base: BaseWeights,
    features_identity: str,
    report: StageReport,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> TrainProgress:
    """Train until the last epoch or `max_train_seconds`; the result is the newest recovery checkpoint.

    Every rank calls this; rank 0 writes and reports. Raises StopRequested after saving a checkpoint when the run was
    asked to stop, Diverged, GpuOutOfMemory, GraphsFailed, DiskFull, IncompatibleCheckpoint, InvalidDataset,
    WorkspaceBusy.
    """
    if device.type == "cuda":
        use_tf32(config.tf32)
    with workspace.training_lock() if distributed.is_main else nullcontext():
        hparams = config_file.hyperparameters(workspace, config)
        parts = distributed.broadcast_object(partial(find_clips, workspace, config, hparams, report))
        store = RecoveryStore(workspace, run_identity(config, base, features_identity))
        try:
            with AsyncCheckpointer() as checkpointer:
                trainer = _Trainer(workspace, config, device, base, parts, store, checkpointer, report, distributed)
                trainer.load()
                return trainer.train()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise GpuOutOfMemory(
                "the device does not have enough memory for the models themselves; close other programs that use it, "
                "or use a smaller width"
            ) from error


def run_identity(config: TrainingConfig, base: BaseWeights, features_identity: str) -> dict[str, Any]:
    """Settings that a checkpoint must share to be resumed from; epochs, batch size and learning rate may change."""
    fields = ("version", "sample_rate", "f0", "width", "speaker_id", "seed")
    identity: dict[str, Any] = {name: getattr(config, name) for name in fields}
    if config.speakers != "one":
        identity["speakers"] = config.speakers
    return {**identity, "base weights": base.identity, "features": features_identity}


class _Trainer:
    """One training run on one rank: the train state, its progress, and the writing of checkpoints and saves."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        device: torch.device,
        base: BaseWeights,
        parts: Split,
        store: RecoveryStore,
        checkpointer: AsyncCheckpointer,
        report: StageReport,
        distributed: DistributedContext,
    ) -> None:
        self.workspace, self.config, self.device, self.base = workspace, config, device, base
        self.clips, self.store, self.checkpointer = parts.trained, store, checkpointer
        self.report, self.distributed = report, distributed
        self.hparams = config_file.hyperparameters(workspace, config)
        self.precision = Precision.choose(config.precision, device)
        self.schedule = Schedule(config, device, store, distributed)
        self.progress_reporter = ProgressReporter(config, device, self.precision, distributed.world_size, report)
        self.evaluation: EvaluationRunner | None = None
        self.saver: CheckpointSaver | None = None
        if distributed.is_main:
            self.evaluation = EvaluationRunner(workspace, config, self.hparams, device, parts, report)
            self.saver = CheckpointSaver(workspace, config, self.hparams, checkpointer, self.evaluation, report)

    def load(self) -> None:
        """Load the run's newest checkpoint; without one its newest G_/D_ pair; without one the base weights."""
        self.state = self._fresh_state()
        pairs = self.distributed.broadcast_object(
            lambda: pairs_to_resume(self.workspace.root, self.store.newest(), self.report.warn)
        )
        checkpoint = None if pairs else self.store.load(self.state, self.report.warn)
        if not hasattr(self, "sampler"):
            self.sampler = self._create_sampler(checkpoint)
        if checkpoint is not None:
            self._start(self._resume(checkpoint))
            return
        self._start(self._resume_pair(pairs) if pairs else self._begin())
        if pairs:
            self._checkpoint()
            self.checkpointer.wait()

    def _start(self, progress: TrainProgress) -> None:
        """Set the run to this progress of the loaded state."""
        self.progress = progress
        self.result: StepResult | None = None
        if progress.is_full_precision:
            self.state.set_precision(self.precision.fp32())
        if self.config.compile:  # here and not before: trials of batch sizes would be compiled too
            keep_in_users_cache()
            self.state.compile(Compiler(self.report.log, self.report.warn))
        if self.evaluation is not None:
            self.evaluation.start(progress)
        self.graphs = self._graphed_steps()
        self.sampler.micro_batcher.release = lambda: self.graphs is not None and self.graphs.release()
        self.started = time.monotonic() - progress.seconds
        self.schedule.start_checkpoint_interval()
        self.saved_step = progress.step
        self.time_is_up = self.schedule.is_time_up(progress)
        self._check_convergence()

    def _graphed_steps(self) -> GraphedSteps | None:
        if not has_graphs(self.device):
            return None
        if not are_enabled(self.config):
            self.report.log("training runs without CUDA graphs, one kernel after another")
            return None
        sampler, save = self.sampler, self._save_before_graphs
        capturer = CudaGraphCapturer(self.device)
        return GraphedSteps(self.state, capturer, sampler.max_frames, sampler.batch_sizes, save, self.distributed)

    def _save_before_graphs(self) -> None:
        """Save a checkpoint, and wait for it: after a failed capture the engine starts again from there."""
        if self.saved_step != self.progress.step:
            self._checkpoint()
        self.checkpointer.wait()
        self.distributed.all_reduce_any(False)  # rank 0 writes: a capture that fails elsewhere would end it

    def _fresh_state(self) -> GanTrainState:
        """A fresh train state, the same on every call and rank."""
        torch.manual_seed(self.config.seed)
        config = self.config
        return GanTrainState.build(
            self.hparams, self.device, config.learning_rate, self.precision, config.gradient_checkpointing
        )

    def _create_sampler(self, checkpoint: TrainProgress | None) -> BatchSampler:
        """Choose the batches of the run. Call before weights are loaded: trials of a batch size change the state."""
        config = self.config
        sampler = BatchSampler.from_config(self.clips, self.state, config, checkpoint, self.distributed, self.report)
        if config.batch_size == "auto" and checkpoint is None:
            del self.state  # frees its memory before the models are built again
            self.state = self._fresh_state()
        if self.distributed.is_main:
            config_file.write(self.workspace, config, sampler.micro_batch_size, self.report)
        how = f"{self.precision.name}{' with gradient checkpointing' if config.gradient_checkpointing else ''}"
        self.report.log(
            f"training {sampler}, {config.epoch_limit} epochs, on {self.device} in {how}, "
            f"base weights: {self.base.identity}"
        )
        return sampler

    def _begin(self) -> TrainProgress:
        """Load the base weights; the progress of a new run."""
        if self.base.generator is not None:
            load_base_weights(self.state.synthesizer, self.base.generator, "pretrained generator")
        if self.base.discriminators is not None:
            load_base_weights(self.state.discriminators, self.base.discriminators, "pretrained discriminator")
        return TrainProgress(0, 1, 0, 0.0, self.sampler.batch_size, len(self.clips))

    def _resume_pair(self, pairs: list[SavedPair]) -> TrainProgress:
        """Load the first of the G_/D_ pairs that is not damaged; the progress after its epoch."""
        resumed = resume(pairs, self.state, self.config, self.report.warn)
        assert resumed is not None
        epoch, scale = resumed.epoch, resumed.learning_rate_scale
        self.report.log(f"resuming after epoch {epoch} of {resumed.pair.generator.name} and its D_ file")
        step = resumed.pair.number
        step = self._step_above(epoch * self.sampler.steps_per_epoch if step is None else step, lambda _: True)
        return TrainProgress(step, epoch + 1, 0, 0.0, self.sampler.batch_size, len(self.clips), scale)

    def _resume(self, progress: TrainProgress) -> TrainProgress:
        """A checkpoint's progress in this dataset's epochs. When the batches have changed, its epoch starts again."""
        self.report.log(f"resuming after step {progress.step}, in epoch {progress.epoch}")
        saves = SaveRegistry(self.workspace.root)
        progress = replace(progress, step=self._step_above(progress.step, lambda path: not saves.is_own(path)))
        sampler = self.sampler
        if (progress.batch_size, progress.num_clips) == (sampler.batch_size, len(self.clips)):
            return progress
        self.report.warn(
            "the batch size or the number of clips has changed since the checkpoint; its epoch starts again"
        )
        return replace(progress, batch=0, batch_size=sampler.batch_size, num_clips=len(self.clips))

    def _step_above(self, step: int, counts: Callable[[Path], bool]) -> int:
        """The step count to resume with, so that later saves get numbers above those of the G_ files that count."""
        above = self.distributed.broadcast_object(partial(step_above, self.workspace.root, step, counts))
        if above != step:
            self.report.log(f"steps are counted on from {above}, above the numbers of the G_ files in the folder")
        return above

    def train(self) -> TrainProgress:
        """Take all remaining steps; go back to the last checkpoint when losses are no longer finite."""
        while True:
            try:
                for batch in self._remaining_batches():
                    started = time.monotonic()
                    starts, noise, totals = self._draw(batch)
                    result = self._replay(batch.batch, starts, noise, totals)
                    if result is None:
                        warm_up = nullcontext() if self.graphs is None else self.graphs.warm_up()
                        # PyTorch counts in a mode in which nothing is compiled: that step's rounding would be another.
                        num_counted = 0 if self.config.compile else len(starts)
                        with warm_up, self.progress_reporter.throughput.count_flops(num_counted):
                            result = training_step(
                                self.state, batch.batch, starts, noise, totals, self.sampler.micro_batcher
                            )
                    self._after_step(batch, result, started)
                return self._finish()
            except NotFinite as error:
                fault = str(error)
            self._restore_checkpoint(fault)  # outside the handler: the error's traceback keeps tensors alive

    def _remaining_batches(self) -> Iterator[GlobalBatch]:
        """The batches that are left, with the learning rate set for each epoch."""
        while self._has_steps_left():
            self.state.set_learning_rate(self.schedule.learning_rate(self.progress))
            for batch in self.sampler.epoch_batches(self.progress.epoch, self.progress.batch):
                yield batch
                if not self._has_steps_left():
                    break

    def _has_steps_left(self) -> bool:
        return self.progress.epoch <= self.config.epoch_limit and not self.time_is_up and not self.has_converged

    def _num_steps_left(self) -> int:
        num_epochs = self.config.epoch_limit - (self.progress.epoch - 1)
        return max(0, num_epochs * self.sampler.steps_per_epoch - self.progress.batch)

    def _draw(self, batch: GlobalBatch) -> tuple[Tensor, Noise, BatchTotals]:
        """Draw the random numbers of the global batch. Returns this rank's starts and noise, and the batch's totals."""
        rng = torch.Generator(self.device).manual_seed(self.config.seed * 2**31 + self.progress.step)
        starts = draw_starts(batch.lengths, self.hparams.segment_frames, rng)
        noise = Noise.draw(self.hparams, len(batch.clips), batch.frames, rng)
        shard, longest = self.distributed.shard(batch.clips), 0 if batch.batch is None else batch.batch.spec.shape[2]
        noise = Noise(noise.posterior[shard, :, :longest], None if noise.source is None else noise.source[shard])
        return starts[shard], noise, BatchTotals(len(batch.clips), batch.num_frames)

    def _replay(self, batch: Batch | None, starts: Tensor, noise: Noise, totals: BatchTotals) -> StepResult | None:
        """Take the step by a CUDA graph; None where it must be eager."""
        if self.graphs is None:
            return None
        inputs = None if batch is None else StepInputs(batch, starts, noise)
        return self.graphs.replay(inputs, self.sampler.micro_batcher.limit, totals)

    def _after_step(self, batch: GlobalBatch, result: StepResult, started: float) -> None:
        """Advance the progress, then report, evaluate, save and stop as is due."""
        self.result = result
        self.progress_reporter.reader.throttle()
        self.progress = progress = replace(
            self.progress,
            step=self.progress.step + 1,
            batch=self.progress.batch + 1,
            seconds=time.monotonic() - self.started,
        )
        due = self.schedule.due_actions(progress, is_stopping=self.report.is_stopping)
        self.time_is_up = due.end
        if due.metrics:
            self._read_metrics()
        self.progress_reporter.report_metrics(self.state)
        if progress.batch == self.sampler.steps_per_epoch:
            self.progress = replace(progress, epoch=progress.epoch + 1, batch=0)
        self.progress_reporter.throughput.add(len(batch.clips), time.monotonic() - started)
        self.checkpointer.poll()
        self._save_if_due()  # before the checkpoint, after which a resumed run does not repeat it
        if due.checkpoint:
            self._checkpoint()
        self._report_progress(due)

    def _read_metrics(self) -> None:
        assert self.result is not None
        tag = self.progress, self.schedule.learning_rate(self.progress)
        self.progress_reporter.reader.submit(tag, self.result.stacked())

    def _check_finite(self) -> None:
        """Raise NotFinite when the last step spoiled the models: on a GPU the losses of most steps are not read."""
        self.progress_reporter.report_metrics(self.state, waits=True)
        if self.result is not None:
            finite_values(self.result.stacked().tolist(), self.progress.step, self.state)

    def _checkpoint(self) -> None:
        """Start saving the state as it is; an event follows once the file is complete."""
        self._check_finite()
        if self.distributed.is_main:
            on_saved = partial(self._report_checkpoint, self.progress)
            self.checkpointer.submit(self.store.tree(self.state, self.progress), self.store.write, on_saved)
        self.schedule.start_checkpoint_interval()
        self.saved_step = self.progress.step

    def _report_checkpoint(self, progress: TrainProgress, path: Path) -> None:
        self.report.event(CheckpointSaved(step=progress.step, epoch=progress.last_epoch, path=str(path)))

    def _report_progress(self, due: DueActions) -> None:
        """Report the progress. Raises StopRequested, after a checkpoint, when the run was asked to stop."""
        try:
            if due.stop:
                raise StopRequested
            self.progress_reporter.report_progress(self.progress, self.progress.step + self._num_steps_left())
        except StopRequested:
            if self.saved_step != self.progress.step:
                self._checkpoint()
            self.checkpointer.wait()
            raise

    def _save_if_due(self) -> None:
        epoch = completed_epochs(self.progress)
        is_over = self.progress.batch == 0 and epoch < self.config.epoch_limit
        if is_over and epoch % self.config.save_every_epochs == 0:
            self._save()
        elif is_over and self.schedule.is_evaluation_due(epoch, self.progress.step, self.evaluation):
            self._check_finite()
            if self.evaluation is not None:
                self.evaluation.run(self.state.synthesizer, self.progress)
        if is_over:
            self._check_convergence()

    def _check_convergence(self) -> None:
        """With total_epochs=auto, end training where the saves no longer improve."""
        self.has_converged = self.schedule.has_converged(self.evaluation)
        if self.config.total_epochs == "auto" and self.evaluation is not None:
            self.progress_reporter.earliest_end = self.evaluation.earliest_end()

    def _save(self) -> None:
        """Write and evaluate a save: a G_/D_ pair (option `-se`), and a small voice file if `-sw` is set."""
        self._check_finite()
        if self.saver is not None:
            self.saver.save(self.state, self.progress)

    def _finish(self) -> TrainProgress:
        """Write the last checkpoint and save."""
        if self.saved_step != self.progress.step or self.progress.step == 0:
            self._checkpoint()
        self._save()
        self.checkpointer.wait()
        if self.time_is_up:
            self.report.log(
                f"max_train_seconds={self.config.max_train_seconds:g} reached after {self.progress.step} steps, in "
                f"epoch {self.progress.last_epoch} of {self.config.epoch_limit}"
            )
        if self.config.total_epochs == "auto" and self.evaluation is not None:
            reached: EndReason = "max_train_seconds" if self.time_is_up else "max_epochs"
            self.evaluation.end("no_better_save" if self.has_converged else reached, self.progress)
        return self.progress

    def _restore_checkpoint(self, fault: str) -> None:
        """Go back to the last good checkpoint, in float32 the first time, then with ever lower learning rates.

        Raises Diverged after MAX_ROLLBACKS times.
        """
        rollbacks = self.progress.num_rollbacks + 1
        was_fp32 = self.state.precision.name == "fp32"
        scale = self.progress.learning_rate_scale * (ROLLBACK_FACTOR if was_fp32 else 1.0)
        if rollbacks > MAX_ROLLBACKS:
            raise Diverged(
                f"the losses are no longer finite ({fault}), after {MAX_ROLLBACKS} returns to a good checkpoint; use a "
                "lower learning_rate, or look for broken recordings in the dataset"
            )
        self.checkpointer.wait()
        self.progress_reporter.reader.discard()
        self.graphs = self.result = None
        del self.state  # frees its memory before the models are built again
        free_cached_memory()
        self.load()
        self.progress = replace(
            self.progress,
            learning_rate_scale=scale,
            num_rollbacks=rollbacks,
            is_full_precision=self.precision.name != "fp32",
        )
        self.state.set_precision(self.precision.fp32())
        how = f"with {scale:g} times the learning rate" if was_fp32 else f"in fp32 instead of {self.precision.name}"
        self.report.warn(f"the losses are no longer finite ({fault}); went back to step {self.progress.step} {how}")
