"""From recordings to a voice: the six stages, in order."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rvc_engine.audio import recordings, slicing
from rvc_engine.card.making import BASE_OF_A_PAIR, Recordings, write_card
from rvc_engine.checkpoints.pairs import is_begun
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.compute.device import open_devices
from rvc_engine.compute.precision import use_tf32
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.data import speakers
from rvc_engine.environment.torch_builds import gpu_advice
from rvc_engine.errors import EngineError, MissingWeights
from rvc_engine.events import STAGES, Log, Stage, StageChanged, Warned
from rvc_engine.index import build
from rvc_engine.machine import Machine
from rvc_engine.pipeline import preflight
from rvc_engine.pipeline.disk_estimate import check_space
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.quality import scoring
from rvc_engine.reporting import Report, StageReport
from rvc_engine.training import trainer
from rvc_engine.training.distributed import launcher
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.voices import export
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.layout import Workspace, fingerprint_of
from rvc_engine.workspace.rvc_files import config_file
from rvc_engine.workspace.rvc_files.filelist import decides, has_silence
from rvc_engine.workspace.stage_cache import StageCache

_EPOCHS_WORTH: dict[Stage, float] = {"slice": 0.2, "pitch": 0.8, "content": 1.0, "index": 0.5, "export": 0.1}
"""Usual duration of the stages beside training, in epochs: like an epoch's, it grows with the recordings' length."""
_AUTO_EPOCHS_WORTH = 100
"""Epochs that training counts as with total_epochs=auto."""

FEATURES_MISMATCH = (
    "the base weights were trained on ContentVec features, and this run uses content={content}; they still give the "
    "decoder a start, but speech must be learned anew from these features, and pretrained=none may do as well"
)


@dataclass(frozen=True)
class StageSelection:
    """The stages of a run to execute after preprocessing."""

    training: bool = True
    index: bool = True
    continue_on_error: bool = False
    """Build the index even if training fails; the error is raised afterwards all the same."""


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

    Without a dataset the workspace must already hold slices, pitch and features, as RVC's preprocessing leaves them.
    The caller holds the workspace's lock. Raises subclasses of EngineError, and StopRequested once `is_stopping()`.
    """
    run = _Run(workspace, config, machine, report, is_stopping)
    continues_to_index = selection.continue_on_error and selection.index
    failure = preflight.check(
        dataset, workspace, config, machine, report, trains=selection.training, continues_to_index=continues_to_index
    )
    if selection.training and failure is None:
        config = run.config = config_file.with_edits(workspace, config, report)
    results = {} if dataset is None else run.preprocessing_results(dataset)
    if dataset is not None and selection.training and failure is None:
        run.check_begun_run(dataset, results)
    run.check_space(dataset, results, selection)
    if dataset is not None:
        run.preprocess(dataset, results)
    if selection.training and failure is None:
        try:
            base, features = run.prepare_training(is_preprocessed_here=dataset is not None)
            result = run.training_result(base, features)
            if not run.reuse(result):
                with run.compute(result) as stage_report:  # here, not in a method: `test_call_path` counts the calls
                    if len(run.devices) == 1:
                        trainer.run(workspace, config, run.device, base, features, stage_report)
                    else:
                        launcher.run(workspace, config, run.devices, base, features, stage_report)
        except EngineError as error:
            failure = error
    if failure is not None:
        if not continues_to_index:
            raise failure
        report(Log(level="error", message=f"training failed ({failure.code}): {failure}; going on to the index"))
    if selection.index:
        run.index()
    if failure is not None:
        raise failure
    run.export(has_voice=selection.training)


@dataclass(frozen=True)
class _StageResult:
    """Result of a stage, valid as long as the fingerprint of the stage's inputs stays the same."""

    stage: Stage
    fingerprint: str
    folders: list[Path] = field(default_factory=list)
    """Folders that the stage fills, shared with other runs through the cache; empty for training."""
    made_with: str = ""


class _Run:
    """Workspace, config, devices and cache of a run, shared by its stages."""

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
        if self.device.type == "cuda":
            use_tf32(config.tf32)  # for pitch and content too
        if machine.device == "auto" and self.device.type == "cpu" and (advice := gpu_advice()) is not None:
            report(Warned(message=advice))
        self.cache = StageCache(machine.cache_folder) if machine.cache_folder is not None else None
        self.recordings: Recordings | None = None

    def preprocessing_results(self, dataset: Path) -> dict[Stage, _StageResult]:
        """The slices, pitch curves (with f0 only) and content features due for a dataset. Raises InvalidDataset."""
        workspace, config = self.workspace, self.config
        slices = self._due_slices(dataset)
        sliced = slices.fingerprint
        pitched = fingerprint_of(pitch_stage.VERSION, sliced, config.pitch)
        encoded = fingerprint_of(sliced, *content_stage.fingerprint_parts(config, self.machine))
        encoder = content_stage.made_with(config, self.machine)
        results = [
            slices,
            _StageResult("content", encoded, [workspace.features, workspace.mute_features.parent], encoder),
        ]
        if config.f0:
            results.append(_StageResult("pitch", pitched, [workspace.coarse_f0, workspace.f0_hz]))
        return {result.stage: result for result in results}

    def _due_slices(self, dataset: Path) -> _StageResult:
        """The slices due for a dataset; a run that began with those of an earlier version goes on with them."""
        workspace, self.recordings = self.workspace, find_recordings(dataset)
        recordings_hash = self.recordings.sha256
        folders, made = [workspace.slices, workspace.slices_16k], workspace.fingerprint("slice")
        parts = slicing.fingerprint_parts(self.config)
        for version in slicing.EARLIER_VERSIONS:
            earlier = _StageResult("slice", fingerprint_of(version, recordings_hash, *parts), folders)
            if made == earlier.fingerprint and self._is_done(earlier) and is_begun(workspace):
                return earlier
        due = fingerprint_of(slicing.VERSION, recordings_hash, *parts)
        return _StageResult("slice", due, [*folders, workspace.slicing_result.parent])

    def check_begun_run(self, dataset: Path, results: Mapping[Stage, _StageResult]) -> None:
        """Raise IncompatibleCheckpoint when the folder holds a run on other inputs, before any of it is overwritten."""
        folders = speakers.recording_folders(recordings.list_recordings(dataset))
        numbers = speakers.Speakers.from_folders(self.config, folders).by_recording
        pitched = results["pitch"].fingerprint if self.config.f0 else None
        features = _features_identity(results["content"].fingerprint, pitched, numbers)
        identity = trainer.run_identity(self.config, BaseWeights(), features)
        del identity["base weights"]  # a begun run keeps its own
        preflight.check_begun_run(self.workspace, identity)

    def _write_recording_folders(self, dataset: Path) -> None:
        """Record the folder of each recording, which identifies its speaker."""
        folders = speakers.recording_folders(recordings.list_recordings(dataset))
        speakers.write_folders(self.workspace, folders)
        if note := speakers.several_folders_note(self.config.speakers, folders):
            self.report(Log(message=note))

    def check_space(
        self, dataset: Path | None, results: Mapping[Stage, _StageResult], selection: StageSelection
    ) -> None:
        """Raise DiskFull when the run does not fit on the workspace's disk."""
        available = [each for each in results.values() if self._is_done(each) or self._is_cached(each)]
        folders = {folder for each in available for folder in each.folders}
        check_space(dataset, self.workspace, self.config, folders, trains=selection.training, indexes=selection.index)

    def preprocess(self, dataset: Path, results: Mapping[Stage, _StageResult]) -> None:
        """Slice the recordings, estimate pitch (with f0 only) and encode content, unless the result is available."""
        workspace, config, machine = self.workspace, self.config, self.machine
        self._write_recording_folders(dataset)
        slices, curves, features = results["slice"], results.get("pitch"), results["content"]
        if not self.reuse(slices):
            with self.compute(slices) as report:
                slicing.run(dataset, workspace, config, report)
        if curves is not None and not self.reuse(curves):
            with self.compute(curves) as report:
                pitch_stage.run(workspace, config, machine, report)
        if not self.reuse(features):
            with self.compute(features) as report:
                content_stage.run(workspace, config, machine, self.device, report)

    def prepare_training(self, *, is_preprocessed_here: bool) -> tuple[BaseWeights, str]:
        """Base weights to start from, checked by preflight, and the identity of the features to train on."""
        base = self._base_weights()
        if self.config.content != "contentvec" and base.generator is not None:
            self.report(Warned(message=FEATURES_MISMATCH.format(content=self.config.content)))
        if not is_preprocessed_here:
            self._write_mute()
        return base, self._features_identity()

    def _base_weights(self) -> BaseWeights:
        """Base weights to start from; of a run that resumes only the identity of those that it began with."""
        paths, files = preflight.base_weight_paths(self.config, self.machine), self._base_paths()
        identity = " ".join(f"{path.name} {sha256_of(path)[:12]}" for path in files) or "none"
        if not is_begun(self.workspace):
            if origin := self.machine.base_origin or self.config.own_base_weights:
                BaseWeightsChoice(pretrained="auto", origin=origin).write(self.workspace)
                self.report(Log(message=f"training starts from {origin}"))
            return BaseWeights(paths[0], paths[1], identity)
        recorded = RecoveryStore(self.workspace, {}).base_weights() or BASE_OF_A_PAIR
        if any(paths) and (not files or identity != recorded):
            text = f"training resumes from a checkpoint in {self.workspace.root}, so base weights are not read"
            if files and recorded != BASE_OF_A_PAIR:
                self.report(
                    Warned(message=f"{text}: the run began with {recorded} and goes on so, not with {identity}")
                )
            else:
                self.report(Log(message=text))
        return BaseWeights(identity=recorded)

    def _base_paths(self) -> list[Path]:
        """Files of the base weights that a new run would start from."""
        paths = preflight.base_weight_paths(self.config, self.machine)
        return [path for path in paths if path is not None and path.is_file()]

    def training_result(self, base: BaseWeights, features: str) -> _StageResult:
        """The trained state due for these inputs; not done when its newest checkpoint was deleted or damaged."""
        if not RecoveryStore(self.workspace, {}).is_newest_whole():
            self.workspace.mark_undone("train")
        inputs = [features, base.identity, self.config.model_dump(mode="json")]
        if edits := config_file.edits(self.workspace, self.config):
            inputs.append(edits)
        if decides(self.workspace):
            inputs.append(sha256_of(self.workspace.filelist))
        return _StageResult("train", fingerprint_of(trainer.VERSION, inputs))

    def _features_identity(self) -> str:
        """Identity of the workspace's features, where a run with recordings made them; a resumed run must match it."""
        encoded = self.workspace.fingerprint("content")
        if encoded is None:
            return "as found in the workspace"
        speaker_numbers = speakers.Speakers.from_workspace(self.workspace, self.config).by_recording
        pitch_curves = self.workspace.fingerprint("pitch") if self.config.f0 else None
        return _features_identity(encoded, pitch_curves, speaker_numbers)

    def _write_mute(self) -> None:
        """Write features of the silent clips, unless those of RVC are used; needs the encoder's weights."""
        if self.workspace.mute_features.is_file() or has_silence(self.workspace, self.config):
            return
        try:
            content_stage.write_mute(self.workspace, self.config, self.machine, self.device)
        except MissingWeights as error:
            self.report(
                Warned(
                    message="training runs without the two silent clips that teach silence, because their features "
                    f"cannot be computed: {error}"
                )
            )

    def index(self) -> None:
        """Build the retrieval index over the content features."""
        with self._stage("index") as stage_report:
            build.run(self.workspace, self.config, stage_report, self.device)

    def export(self, has_voice: bool) -> None:
        """Write and check the files to download."""
        with self._stage("export") as stage_report:
            if has_voice:
                details, files = export.run(self.workspace, self.config, self.device, stage_report)
                scoring.run(self.workspace, self.config, self.machine, self.device, details, stage_report)
                paths = self._base_paths()
                run = (self.workspace, self.config, self.machine, self.devices, self.recordings)
                for path in write_card(*run, details, files, paths):
                    stage_report.event(export.artifact_of("card", path))
            else:
                export.run_index_only(self.workspace, self.config, stage_report)

    def _is_done(self, result: _StageResult) -> bool:
        is_marked = self.workspace.is_done(result.stage, result.fingerprint)
        return is_marked and all(folder.is_dir() for folder in result.folders)

    def _is_cached(self, result: _StageResult) -> bool:
        return bool(result.folders) and self.cache is not None and self.cache.contains(result.stage, result.fingerprint)

    def reuse(self, result: _StageResult) -> bool:
        """Skip the stage if its result is in the workspace or can be restored from the cache; False otherwise."""
        stage, fingerprint, folders = result.stage, result.fingerprint, result.folders
        is_available = self._is_done(result) or (
            bool(folders) and self.cache is not None and self.cache.restore(stage, fingerprint, folders)
        )
        if is_available:
            self.workspace.mark_done(stage, fingerprint, result.made_with)
            self.report(StageChanged(stage=stage, state="skipped"))
        return is_available

    @contextmanager
    def compute(self, result: _StageResult) -> Iterator[StageReport]:
        """Context of a stage that computes the result: empties its folders before, marks and caches them after."""
        stage, fingerprint, folders = result.stage, result.fingerprint, result.folders
        self.workspace.mark_undone(stage)
        for folder in folders:  # its files may be links into the cache, and must not be written through
            shutil.rmtree(folder, ignore_errors=True)
        with self._stage(stage) as stage_report:
            yield stage_report
            self.workspace.mark_done(stage, fingerprint, result.made_with)
            if folders and self.cache is not None:
                self.cache.store(stage, fingerprint, folders)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[StageReport]:
        self.report(StageChanged(stage=stage, state="started"))
        started = time.monotonic()
        stage_report = StageReport(stage, self.report, self.is_stopping, progress_span(stage, self.config))
        stage_report.check_stop()
        yield stage_report
        self.report(StageChanged(stage=stage, state="finished", seconds=time.monotonic() - started))


def progress_span(stage: Stage, config: TrainingConfig) -> tuple[float, float]:
    """A stage's part of the run's progress, (start, end) in 0..1: its share of the expected time.

    The same in all attempts of a job, as it follows from the configuration alone.
    """
    epochs = min(config.epoch_limit, _AUTO_EPOCHS_WORTH) if config.total_epochs == "auto" else config.total_epochs
    worth = [_EPOCHS_WORTH.get(each, epochs) for each in STAGES]
    position = STAGES.index(stage)
    return sum(worth[:position]) / sum(worth), sum(worth[: position + 1]) / sum(worth)


def _features_identity(encoded: str, pitched: str | None, speaker_numbers: Sequence[int]) -> str:
    return fingerprint_of(encoded, pitched, *([speaker_numbers] if speaker_numbers else []))


def find_recordings(dataset: Path) -> Recordings:
    """Number of the recordings, and the hash of their contents in their order; file names do not count.

    Parts that are left out count.
    """
    digest, found = hashlib.sha256(), recordings.list_recordings(dataset)
    for recording in found:
        with recording.path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        if recording.without:
            digest.update(repr([tuple(part) for part in recording.without]).encode())
    return Recordings(len(found), digest.hexdigest())
