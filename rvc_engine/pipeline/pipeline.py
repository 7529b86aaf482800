"""From recordings to a voice: the six stages, in order."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvc_engine.audio import recordings, slicing
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.compute.device import open_devices
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.data import speakers
from rvc_engine.errors import EngineError, MissingWeights
from rvc_engine.events import STAGES, Log, Stage, StageChanged, Warned
from rvc_engine.index import build
from rvc_engine.machine import Machine
from rvc_engine.pipeline import preflight
from rvc_engine.pipeline.disk_estimate import check_space
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.reporting import Report, StageReport
from rvc_engine.training import trainer
from rvc_engine.training.distributed import launcher
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.voices import export
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.layout import Workspace, fingerprint_of
from rvc_engine.workspace.stage_cache import StageCache

_PROGRESS_ENDS: dict[Stage, float] = {
    "slice": 0.03,
    "pitch": 0.05,
    "content": 0.12,
    "train": 0.95,
    "index": 0.97,
    "export": 1.0,
}
"""Where each stage ends on the way from 0 to 1; for the progress of a run as a whole."""

FEATURES_MISMATCH = (
    "the base weights were trained on ContentVec's features and this run uses content={content}: they give the voice a "
    "sound to start from, and it must learn anew what is said; pretrained=none may do as well"
)


@dataclass(frozen=True)
class StageSelection:
    """The stages of a run to execute after preprocessing."""

    training: bool = True
    index: bool = True
    continue_on_error: bool = False
    """Make the index also when training failed; the failure is raised afterwards all the same."""


def make_voice(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    report: Report,
    is_stopping: Callable[[], bool] = lambda: False,
    selection: StageSelection = StageSelection(),
) -> None:
    """Make `<voice>.pth` and `<voice>.index` in the workspace; stages whose inputs are unchanged are skipped.

    Without a dataset the workspace must hold slices, pitch and features already, as RVC's preprocessing leaves them.
    The caller holds the workspace's lock. Raises EngineError's kinds, and StopRequested when `is_stopping` said so.
    """
    run = _Run(workspace, config, machine, report, is_stopping)
    continues_on_error = selection.continue_on_error and selection.index
    failure = preflight.check(
        dataset, workspace, config, machine, report, trains=selection.training, continues_to_index=continues_on_error
    )
    tasks = run.preprocessing_tasks(dataset) if dataset is not None else []
    run.check_space(dataset, tasks, selection)
    for task in tasks:
        run.run_task(task)
    if selection.training and failure is None:
        try:
            run.train(is_prepared_here=dataset is not None)
        except EngineError as error:
            failure = error
    if failure is not None:
        if not continues_on_error:
            raise failure
        report(Log(level="error", message=f"training failed ({failure.code}): {failure}; going on to the index"))
    if selection.index:
        run.index()
    if failure is not None:
        raise failure
    run.export(has_voice=selection.training)


@dataclass(frozen=True)
class _StageTask:
    """One stage whose result is kept for as long as its inputs stay the same."""

    stage: Stage
    fingerprint: str
    """Of the inputs."""
    folders: list[Path]
    """What it fills, to be kept for other runs; empty for training."""
    run: Callable[[StageReport], Any]
    made_with: str = ""


class _Run:
    """What all stages of a run share."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        machine: Machine,
        report: Report,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.workspace, self.config, self.machine = workspace, config, machine
        self.report, self.is_stopping = report, is_stopping
        self.devices = open_devices(machine)
        self.device = self.devices[0]
        self.cache = StageCache(machine.cache_folder) if machine.cache_folder is not None else None

    def preprocessing_tasks(self, dataset: Path) -> list[_StageTask]:
        """What slices, pitch curves and content features of the recordings take. Raises InvalidDataset."""
        workspace, config = self.workspace, self.config
        self._record_folders(dataset)
        sliced = fingerprint_of(slicing.VERSION, dataset_hash(dataset), config.sample_rate)
        pitched = fingerprint_of(pitch_stage.VERSION, sliced, config.pitch)
        encoded = fingerprint_of(sliced, *content_stage.fingerprint_parts(config, self.machine))
        slices = _StageTask(
            "slice",
            sliced,
            [workspace.slices, workspace.slices_16k],
            lambda r: slicing.run(dataset, workspace, config, r),
        )
        curves = _StageTask(
            "pitch",
            pitched,
            [workspace.coarse_f0, workspace.f0_hz],
            lambda r: pitch_stage.run(workspace, config, self.machine, r),
        )
        features = _StageTask(
            "content",
            encoded,
            [workspace.features, workspace.mute_features.parent],
            lambda r: content_stage.run(workspace, config, self.machine, self.device, r),
            made_with=content_stage.made_with(config, self.machine),
        )
        return [slices, curves, features] if config.f0 else [slices, features]

    def _record_folders(self, dataset: Path) -> None:
        """Keep in which folder each recording lies: by it the speakers are told apart."""
        folders = speakers.recording_folders(recordings.list_recordings(dataset))
        speakers.write_folders(self.workspace, folders)
        if note := speakers.several_folders_note(self.config.speakers, folders):
            self.report(Log(message=note))

    def check_space(self, dataset: Path | None, tasks: list[_StageTask], selection: StageSelection) -> None:
        """Raise DiskFull when the run does not fit on the workspace's disk."""
        available = [each for each in tasks if self._is_done(each) or self._is_cached(each)]
        folders = {folder for each in available for folder in each.folders}
        check_space(dataset, self.workspace, self.config, folders, trains=selection.training, indexes=selection.index)

    def base_weights(self) -> BaseWeights:
        """The files that training starts from, which are there and fit."""
        paths = preflight.base_weight_paths(self.config, self.machine)
        identity = " ".join(f"{path.name} {sha256_of(path)[:12]}" for path in paths if path is not None)
        return BaseWeights(paths[0], paths[1], identity or "none")

    def train(self, *, is_prepared_here: bool) -> None:
        """The nets, up to their last checkpoint."""
        base = self.base_weights()
        if self.config.content != "contentvec" and base.generator is not None:
            self.report(Warned(message=FEATURES_MISMATCH.format(content=self.config.content)))
        if not is_prepared_here:
            self._make_mute()
        if not RecoveryStore(self.workspace, {}).is_newest_whole():
            self.workspace.mark_undone("train")  # someone took it away, to train anew, or damaged it
        features = self._features_identity()
        inputs = [features, base.identity, self.config.model_dump(mode="json")]
        self.run_task(
            _StageTask("train", fingerprint_of(trainer.VERSION, inputs), [], lambda r: self._train(base, features, r))
        )

    def _features_identity(self) -> str:
        """What the workspace's features are, if a run with recordings made them: training goes on with no others."""
        encoded = self.workspace.fingerprint("content")
        if encoded is None:
            return "as found in the workspace"
        speaker_numbers = speakers.Speakers.from_workspace(self.workspace, self.config).by_recording
        pitch_curves = self.workspace.fingerprint("pitch") if self.config.f0 else None
        return fingerprint_of(encoded, pitch_curves, *([speaker_numbers] if speaker_numbers else []))

    def _make_mute(self) -> None:
        """The silent clips' features, which other programs keep elsewhere; without the encoder, none."""
        if self.workspace.mute_features.is_file():
            return
        try:
            content_stage.write_mute(self.workspace, self.config, self.machine, self.device)
        except MissingWeights as error:
            self.report(
                Warned(
                    message="training goes without the two silent clips that teach silence, because their features "
                    f"cannot be made: {error}"
                )
            )

    def _train(self, base: BaseWeights, features: str, stage_report: StageReport) -> None:
        """In this process, or in one of its own for each of several devices."""
        workspace, config = self.workspace, self.config
        if len(self.devices) == 1:
            trainer.run(workspace, config, self.device, base, features, stage_report)
        else:
            launcher.run(workspace, config, self.devices, base, features, stage_report)

    def index(self) -> None:
        """The retrieval index over the content features."""
        with self._stage("index") as stage_report:
            build.run(self.workspace, self.config, stage_report)

    def export(self, has_voice: bool) -> None:
        """The files to take away, checked."""
        with self._stage("export") as stage_report:
            if has_voice:
                export.run(self.workspace, self.config, self.device, stage_report)
            else:
                export.run_index_only(self.workspace, self.config, stage_report)

    def _is_done(self, task: _StageTask) -> bool:
        is_marked = self.workspace.is_done(task.stage, task.fingerprint)
        return is_marked and all(folder.is_dir() for folder in task.folders)

    def _is_cached(self, task: _StageTask) -> bool:
        return bool(task.folders) and self.cache is not None and self.cache.contains(task.stage, task.fingerprint)

    def run_task(self, task: _StageTask) -> None:
        """Run a stage unless its result is there, in the workspace or in the cache."""
        stage, fingerprint, folders = task.stage, task.fingerprint, task.folders
        is_there = self._is_done(task) or (
            bool(folders) and self.cache is not None and self.cache.restore(stage, fingerprint, folders)
        )
        if is_there:
            self.workspace.mark_done(stage, fingerprint, task.made_with)
            self.report(StageChanged(stage=stage, state="skipped"))
            return
        self.workspace.mark_undone(stage)
        for folder in folders:  # its files may be links into the cache, and must not be written through
            shutil.rmtree(folder, ignore_errors=True)
        with self._stage(stage) as stage_report:
            task.run(stage_report)
            self.workspace.mark_done(stage, fingerprint, task.made_with)
            if folders and self.cache is not None:
                self.cache.store(stage, fingerprint, folders)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[StageReport]:
        self.report(StageChanged(stage=stage, state="started"))
        started = time.monotonic()
        position = STAGES.index(stage)
        start = _PROGRESS_ENDS[STAGES[position - 1]] if position else 0.0
        stage_report = StageReport(stage, self.report, self.is_stopping, (start, _PROGRESS_ENDS[stage]))
        stage_report.check_stop()
        yield stage_report
        self.report(StageChanged(stage=stage, state="finished", seconds=time.monotonic() - started))


def dataset_hash(dataset: Path) -> str:
    """A hash over the contents of all recordings, in their order; names do not matter."""
    digest = hashlib.sha256()
    for recording in recordings.list_recordings(dataset):
        with recording.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
