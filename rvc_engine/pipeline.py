"""From recordings to a voice: the six stages, in order."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvc_engine import rank_supervisor, recordings
from rvc_engine.checkpoint import RecoveryStore
from rvc_engine.config import TrainingConfig
from rvc_engine.device import open_devices
from rvc_engine.errors import EngineError, InvalidConfig
from rvc_engine.events import STAGES, Log, Stage, StageChanged, Warned
from rvc_engine.machine import Machine
from rvc_engine.reporting import Report, StageReport
from rvc_engine.required_weights import check_weights
from rvc_engine.stage_cache import StageCache
from rvc_engine.stages import content, export, indexing, pitch, slicing, training
from rvc_engine.stages.training import BaseWeights
from rvc_engine.weights import Weights, sha256_of
from rvc_engine.workspace import Workspace, fingerprint_of

_ENDS: dict[Stage, float] = {"slice": 0.03, "pitch": 0.05, "content": 0.12, "train": 0.95, "index": 0.97, "export": 1.0}
"""Where each stage ends on the way from 0 to 1; for the progress of a run as a whole."""

OTHER_FEATURES = (
    "the base weights were trained on ContentVec's features and this run uses content={content}: they give the voice a "
    "sound to start from, and it must learn anew what is said; pretrained=none may do as well"
)


@dataclass(frozen=True)
class Wanted:
    """Which parts of the way to go."""

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
    wanted: Wanted = Wanted(),
) -> None:
    """Make `<voice>.pth` and `<voice>.index` in the workspace; stages whose inputs are unchanged are skipped.

    Without a dataset the workspace must hold slices, pitch and features already, as RVC's preprocessing leaves them.
    The caller holds the workspace's lock. Raises EngineError's kinds, and StopRequested when `is_stopping` said so.
    """
    run = _Run(workspace, config, machine, report, is_stopping)
    check_weights(config, machine, prepares=dataset is not None, trains=wanted.training)
    base = run.base_weights() if wanted.training else BaseWeights()
    if wanted.training and config.content != "contentvec" and base.generator is not None:
        report(Warned(message=OTHER_FEATURES.format(content=config.content)))
    if dataset is not None:
        run.prepare(dataset)
    else:
        run.take_as_found()
    failure: EngineError | None = None
    if wanted.training:
        try:
            run.train(base)
        except EngineError as error:
            if not (wanted.continue_on_error and wanted.index):
                raise
            report(Log(level="error", message=f"training failed ({error.code}): {error}; going on to the index"))
            failure = error
    if wanted.index:
        run.index()
    if failure is not None:
        raise failure
    run.export(has_voice=wanted.training)


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
        self.features_identity = "as found in the workspace"

    def prepare(self, dataset: Path) -> None:
        """Slices, pitch curves and content features of the recordings."""
        workspace, config = self.workspace, self.config
        sliced = fingerprint_of(slicing.VERSION, dataset_hash(dataset), config.sample_rate)
        self._do(
            "slice",
            sliced,
            [workspace.slices, workspace.slices_16k],
            lambda r: slicing.run(dataset, workspace, config, r),
        )
        if config.f0:
            pitched = fingerprint_of(pitch.VERSION, sliced, config.pitch)
            self._do(
                "pitch",
                pitched,
                [workspace.coarse_f0, workspace.f0_hz],
                lambda r: pitch.run(workspace, config, self.machine, r),
            )
        encoded = fingerprint_of(sliced, *content.fingerprint_parts(config, self.machine))
        self._do(
            "content",
            encoded,
            [workspace.features, workspace.mute_features.parent],
            lambda r: content.run(workspace, config, self.machine, self.device, r),
            made_with=config.content,
        )
        self.take_as_found()

    def take_as_found(self) -> None:
        """What the workspace's features are, if a run with recordings made them: training goes on with no others.

        Raises InvalidConfig when the config speaks of another encoder than they were made with: the voice would carry
        the wrong one's name, and convert to garbage.
        """
        workspace, config = self.workspace, self.config
        encoder = workspace.made_with("content")
        if encoder and encoder != config.content:
            raise InvalidConfig(
                f"the features in {workspace.features} were made with content={encoder} and this run says "
                f"content={config.content}; say content={encoder}, or give the recordings again"
            )
        if (encoded := workspace.fingerprint("content")) is not None:
            self.features_identity = fingerprint_of(encoded, workspace.fingerprint("pitch") if config.f0 else None)

    def base_weights(self) -> BaseWeights:
        """The files that training starts from: the machine's own, or else the published. Raises MissingWeights."""
        config, weights = self.config, Weights(self.machine.weights_folder)
        paths: list[Path | None] = [self.machine.pretrained_g, self.machine.pretrained_d]
        if config.pretrained == "auto":
            published = weights.pretrained_files(config.version, config.sample_rate, config.f0)
            for n, file in enumerate(published):
                if paths[n] is None:
                    weights.require([file], file.id)
                    paths[n] = weights.path_of(file)
        identity = " ".join(f"{path.name} {sha256_of(path)[:12]}" for path in paths if path is not None)
        return BaseWeights(paths[0], paths[1], identity or "none")

    def train(self, base: BaseWeights) -> None:
        """The nets, up to their last checkpoint."""
        if not RecoveryStore(self.workspace, {}).is_newest_whole():
            self.workspace.mark_undone("train")  # someone took it away, to train anew, or damaged it
        inputs = [self.features_identity, base.identity, self.config.model_dump(mode="json")]
        self._do(
            "train",
            fingerprint_of(training.VERSION, inputs),
            [],
            lambda r: self._train(base, r),
        )

    def _train(self, base: BaseWeights, stage_report: StageReport) -> None:
        """In this process, or in one of its own for each of several devices."""
        workspace, config, features = self.workspace, self.config, self.features_identity
        if len(self.devices) == 1:
            training.run(workspace, config, self.device, base, features, stage_report)
        else:
            rank_supervisor.run(workspace, config, self.devices, base, features, stage_report)

    def index(self) -> None:
        """The retrieval index over the content features."""
        with self._stage("index") as stage_report:
            indexing.run(self.workspace, self.config.seed, stage_report)

    def export(self, has_voice: bool) -> None:
        """The files to take away, checked."""
        with self._stage("export") as stage_report:
            if has_voice:
                export.run(self.workspace, self.config, self.device, stage_report)
            else:
                export.run_index_only(self.workspace, self.config, stage_report)

    def _do(
        self,
        stage: Stage,
        fingerprint: str,
        folders: list[Path],
        work: Callable[[StageReport], Any],
        made_with: str = "",
    ) -> None:
        """Run a stage unless its result is there, in the workspace or in the cache."""
        is_done = self.workspace.is_done(stage, fingerprint) and all(folder.is_dir() for folder in folders)
        is_there = is_done or (
            bool(folders) and self.cache is not None and self.cache.restore(stage, fingerprint, folders)
        )
        if is_there:
            self.workspace.mark_done(stage, fingerprint, made_with)
            self.report(StageChanged(stage=stage, state="skipped"))
            return
        self.workspace.mark_undone(stage)
        for folder in folders:  # its files may be links into the cache, and must not be written through
            shutil.rmtree(folder, ignore_errors=True)
        with self._stage(stage) as stage_report:
            work(stage_report)
            self.workspace.mark_done(stage, fingerprint, made_with)
            if folders and self.cache is not None:
                self.cache.store(stage, fingerprint, folders)

    @contextmanager
    def _stage(self, stage: Stage) -> Iterator[StageReport]:
        self.report(StageChanged(stage=stage, state="started"))
        started = time.monotonic()
        position = STAGES.index(stage)
        start = _ENDS[STAGES[position - 1]] if position else 0.0
        stage_report = StageReport(stage, self.report, self.is_stopping, (start, _ENDS[stage]))
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
