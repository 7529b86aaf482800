"""The train stage: epochs of steps, with checkpoints between them, from wherever the run was.

A step's randomness (segments, noise) and an epoch's order come from the seed and the step or epoch alone, so a run that
was interrupted goes on exactly as if it had not been.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rvc_engine.appraisal import Appraiser
from rvc_engine.checkpoint import Place, RecoveryStore, completed_epochs, load_base_weights, save_pair
from rvc_engine.config import TrainingConfig
from rvc_engine.dataset import ClipFiles, ClipLoader, epoch_batches, list_clips, write_filelist
from rvc_engine.errors import Diverged, GpuOutOfMemory, StopRequested
from rvc_engine.events import CheckpointSaved, Metric
from rvc_engine.held_out import split
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.nets.synthesizer import Noise
from rvc_engine.reporting import StageReport
from rvc_engine.retention import KeptSaves, Save
from rvc_engine.stages import export
from rvc_engine.step import Batch, Nets, StepResult, draw_starts, training_step
from rvc_engine.workspace import Workspace, write_atomically

VERSION = 1

MIN_TIMED_STEPS = 8
"""`max_train_seconds` does not end training before so many steps."""
CHECKPOINT_SECONDS = 300
CHECKPOINT_SHARE = 0.03
"""Saving may take this share of the time."""
SECONDS_BETWEEN_METRICS = 0.2
MAX_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.5
"""On the learning rate, each time a run goes back after diverging."""


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
) -> Place:
    """Train to the end, or until the time is up; the result is the newest recovery checkpoint.

    Raises StopRequested after saving a checkpoint when the run was asked to stop, Diverged, GpuOutOfMemory, DiskFull,
    IncompatibleCheckpoint, InvalidDataset.
    """
    sizes = Hyperparameters.of(config)
    clips, num_short = list_clips(workspace, sizes, config.speaker_id)
    if num_short:
        report.log(f"{num_short} slices are too short to train on, or lack features, and are left out")
    parts = split(clips, workspace.slices, config.evaluate)
    if parts.are_held_out:
        report.log(f"{len(parts.evaluated)} clips are held out of training, for evaluation")
    write_filelist(workspace, parts.trained, config.seed)
    write_atomically(workspace.hyperparameters, sizes.workspace_config(config).encode())
    identity = _identity(config, base, features_identity)
    appraiser = Appraiser(workspace, config, sizes, device, parts, report)
    store = RecoveryStore(workspace, identity)
    trainer = _Trainer(workspace, config, sizes, device, parts.trained, store, appraiser, report)
    trainer.prepare(base)
    try:
        return trainer.train()
    except torch.OutOfMemoryError as error:
        raise GpuOutOfMemory(
            f"the device ran out of memory at batch_size={config.batch_size}; use a smaller batch_size, or free the "
            "device of other programs"
        ) from error


def _identity(config: TrainingConfig, base: BaseWeights, features_identity: str) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from; epochs, batch size and learning rate may change."""
    fields = ("version", "sample_rate", "f0", "width", "speaker_id", "seed")
    identity: dict[str, Any] = {name: getattr(config, name) for name in fields}
    return {**identity, "base weights": base.identity, "features": features_identity}


class _Trainer:
    """The state of one training: nets, place, and when things were last done."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        sizes: Hyperparameters,
        device: torch.device,
        clips: list[ClipFiles],
        store: RecoveryStore,
        appraiser: Appraiser,
        report: StageReport,
    ) -> None:
        self.workspace, self.config, self.sizes, self.device = workspace, config, sizes, device
        self.clips, self.store, self.appraiser, self.report = clips, store, appraiser, report
        self.loader = ClipLoader(clips, sizes, device, config.cache_data_on_device)
        self.lengths = [clip.frames for clip in clips]
        self.batches_per_epoch = math.ceil(len(clips) / config.batch_size)
        self.total_steps = self.batches_per_epoch * config.total_epochs
        self.step_seconds: float | None = None
        self.last_metric = 0.0
        self.result: StepResult | None = None

    def prepare(self, base: BaseWeights) -> None:
        """Build the nets and bring them to where the run was, or to the base weights at its beginning."""
        self.base = base
        torch.manual_seed(self.config.seed)
        self.nets = Nets.build(self.sizes, self.device, self.config.learning_rate)
        place = self.store.load(self.nets, self.report.warn)
        self.appraiser.begin(place)
        if place is None:
            if base.generator is not None:
                load_base_weights(self.nets.generator, base.generator, "pretrained generator")
            if base.discriminators is not None:
                load_base_weights(self.nets.discriminators, base.discriminators, "pretrained discriminator")
            place = Place(0, 1, 0, 0.0, self.config.batch_size, len(self.clips))
            self.report.log(
                f"training {len(self.clips)} clips in batches of {self.config.batch_size}: "
                f"{self.batches_per_epoch} steps an epoch, {self.config.total_epochs} epochs, on {self.device}, "
                f"base weights: {base.identity}"
            )
        else:
            place = self._continued(place)
        self.place = place
        self.result = None
        self.started = time.monotonic() - place.seconds
        self.last_checkpoint = time.monotonic()
        self.saved_step = place.step

    def _continued(self, place: Place) -> Place:
        """A checkpoint's place in this dataset's epochs; the epoch's start when the batches are others now."""
        self.report.log(f"going on after step {place.step}, in epoch {place.epoch}")
        if (place.batch_size, place.num_clips) == (self.config.batch_size, len(self.clips)):
            return place
        self.report.warn(
            "the batch size or the number of clips has changed since the checkpoint; its epoch starts anew"
        )
        return replace(place, batch=0, batch_size=self.config.batch_size, num_clips=len(self.clips))

    def train(self) -> Place:
        """All remaining steps; goes back to the last checkpoint when losses stop being numbers."""
        while True:
            try:
                self._train_until_done()
                return self._finish()
            except _NotFinite as fault:
                self._roll_back(fault)

    def _train_until_done(self) -> None:
        while self.place.epoch <= self.config.total_epochs and not self._time_is_up():
            epoch = self.place.epoch
            plan = epoch_batches(self.lengths, self.config.batch_size, self.config.seed, epoch)
            self.nets.set_learning_rate(self._learning_rate())
            for batch in self.loader.batches(plan[self.place.batch :]):
                self._one_step(batch)
                if self._time_is_up():
                    break

    def _learning_rate(self) -> float:
        decay = self.config.lr_decay ** (self.place.epoch - 1)
        return self.config.learning_rate * self.place.learning_rate_scale * decay

    def _one_step(self, batch: Batch) -> None:
        started = time.monotonic()
        generator = torch.Generator(self.device).manual_seed(self.config.seed * 2**31 + self.place.step)
        starts = draw_starts(batch.lengths, self.sizes.segment_frames, generator)
        noise = Noise.draw(self.sizes, len(batch.lengths), batch.features.shape[1], generator)
        self.result = training_step(self.nets, batch, starts, noise)
        self.place = replace(self.place, step=self.place.step + 1, batch=self.place.batch + 1)
        self._measure(self.result)
        self.place = self._next_place()
        elapsed = time.monotonic() - started
        self.step_seconds = elapsed if self.step_seconds is None else 0.8 * self.step_seconds + 0.2 * elapsed
        self._save_if_due()  # before the checkpoint: a run that goes on from that does not come back here
        self._checkpoint_if_due()
        self._say_progress()

    def _next_place(self) -> Place:
        """Where the next step is: in this epoch, or at the beginning of the next."""
        place = replace(self.place, seconds=time.monotonic() - self.started)
        return replace(place, epoch=place.epoch + 1, batch=0) if place.batch == self.batches_per_epoch else place

    def _measure(self, result: StepResult) -> None:
        """Read the losses and look whether they are numbers; on a GPU, where reading waits, only now and then."""
        now = time.monotonic()
        is_free = self.device.type == "cpu" or self.place.step == 1
        if not is_free and now - self.last_metric < SECONDS_BETWEEN_METRICS:
            return
        self.last_metric = now
        values = self._finite_values(result)
        values["learning_rate"] = self._learning_rate()
        self.report.event(Metric(step=self.place.step, epoch=self.place.epoch, values=values))

    def _finite_values(self, result: StepResult) -> dict[str, float]:
        values = dict(zip(StepResult.NAMES, result.stacked().tolist(), strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise _NotFinite(f"{', '.join(wrong)} at step {self.place.step}")
        return values

    def _check_finite(self) -> None:
        """Nothing is saved of nets that the last step spoiled; on a GPU not every step's losses were read."""
        if self.result is not None:
            self._finite_values(self.result)

    def _checkpoint_if_due(self) -> None:
        every = self.config.checkpoint_every_steps
        if every is not None:
            is_due = self.place.step % every == 0
        else:
            wait = max(CHECKPOINT_SECONDS, self.store.last_save_seconds / CHECKPOINT_SHARE)
            is_due = time.monotonic() - self.last_checkpoint >= wait
        if is_due:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._check_finite()
        path = self.store.save(self.nets, self.place)
        self.last_checkpoint = time.monotonic()
        self.saved_step = self.place.step
        self.report.event(CheckpointSaved(step=self.place.step, epoch=self.place.last_epoch, path=str(path)))

    def _say_progress(self) -> None:
        try:
            done, total, eta = self._done()
            self.report.progress(
                done,
                total,
                eta_seconds=eta,
                epoch=min(self.place.epoch, self.config.total_epochs),
                total_epochs=self.config.total_epochs,
                step=self.place.step,
                total_steps=self.total_steps,
                step_seconds=self.step_seconds,
            )
        except StopRequested:
            if self.saved_step != self.place.step:
                self._checkpoint()
            raise

    def _done(self) -> tuple[float, float, float | None]:
        """Progress by steps or by the clock, whichever is nearer to the end."""
        step, step_seconds, limit = self.place.step, self.step_seconds or 0.0, self.config.max_train_seconds
        remaining = (self.total_steps - step) * step_seconds
        if limit is None:
            return step, self.total_steps, remaining
        left = max(limit - self.place.seconds, (MIN_TIMED_STEPS - step) * step_seconds, 0.0)
        fraction = min(self.place.seconds / limit, step / MIN_TIMED_STEPS, 0.999)
        return max(fraction, step / self.total_steps), 1.0, min(left, remaining)

    def _time_is_up(self) -> bool:
        limit = self.config.max_train_seconds
        return limit is not None and self.place.seconds >= limit and self.place.step >= MIN_TIMED_STEPS

    def _save_if_due(self) -> None:
        epoch = completed_epochs(self.place)
        is_over = self.place.batch == 0 and epoch < self.config.total_epochs
        if is_over and epoch % self.config.save_every_epochs == 0:
            self._save()
        elif is_over and self.config.evaluate_every_epochs and epoch % self.config.evaluate_every_epochs == 0:
            self._check_finite()
            self.appraiser.appraise(self.nets.generator, self.place)

    def _save(self) -> None:
        """What `-se` asks for: a pair in the published form, and with `-sw` a small voice file; both judged."""
        self._check_finite()
        files = save_pair(
            self.workspace, self.nets, self.place, self.config.learning_rate, self.config.save_only_latest
        )
        if self.config.save_only_latest:
            files = []  # each takes the place of the one before
        if self.config.save_every_weights:
            name = f"{self.workspace.stem}_e{completed_epochs(self.place)}_s{self.place.step}.pth"
            details = export.VoiceDetails.of(self.workspace, self.config, self.place)
            export.write_voice(self.workspace.weights / name, self.nets.generator.state_dict(), self.sizes, details)
            files.append(self.workspace.weights / name)
        self.report.log(f"saved epoch {completed_epochs(self.place)}, step {self.place.step}")
        self.appraiser.appraise(self.nets.generator, self.place)
        self._let_go_of_saves(files)

    def _let_go_of_saves(self, files: list[Path]) -> None:
        """Keep what `keep_saves` wants, now that a new save is there."""
        names = [path.relative_to(self.workspace.root).as_posix() for path in files]
        save = Save(step=self.place.step, epoch=completed_epochs(self.place), files=names)
        for old in KeptSaves(self.workspace.root).add(save, self.config, self.appraiser.worth):
            self.report.log(
                f"deleted the save of epoch {old.epoch}, step {old.step} (keep_saves={self.config.keep_saves})"
            )

    def _finish(self) -> Place:
        if self.saved_step != self.place.step or self.place.step == 0:
            self._checkpoint()
        self._save()
        if self.place.epoch <= self.config.total_epochs:
            self.report.log(
                f"the {self.config.max_train_seconds:g} s of training are over: {self.place.step} steps, "
                f"in epoch {self.place.last_epoch} of {self.config.total_epochs}"
            )
        return self.place

    def _roll_back(self, fault: _NotFinite) -> None:
        """Back to the last good checkpoint with a lower learning rate. Raises Diverged after the third time."""
        rollbacks = self.place.num_rollbacks + 1
        scale = self.place.learning_rate_scale * ROLLBACK_FACTOR
        if rollbacks > MAX_ROLLBACKS:
            raise Diverged(
                f"losses are no numbers any more ({fault}) after {MAX_ROLLBACKS} returns to a good checkpoint; use a "
                "lower learning_rate, or look for broken recordings in the dataset"
            )
        self.prepare(self.base)
        self.place = replace(self.place, learning_rate_scale=scale, num_rollbacks=rollbacks)
        self.report.warn(
            f"losses are no numbers any more ({fault}); went back to step {self.place.step} with {scale:g} times the "
            "learning rate"
        )
