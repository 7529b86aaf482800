"""Published weights that a run of the pipeline command lacks: fetched from their server, or base weights done without.

RVC's trainer starts from scratch where it is given no base weights. The choice is made once, before any work, and kept
in the run's folder, so that a later start of the same command does the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rvc_engine.audio.recordings import list_recordings
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import EngineError, InvalidConfig, MissingWeights, StopRequested
from rvc_engine.events import Log, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import published_base_weights, published_preparation
from rvc_engine.reporting import Report
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_engine.weights.download import fetch, unreachable_reason, url_of
from rvc_engine.workspace import external
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.layout import Workspace

SCRATCH = "trained from scratch, without base weights"
_OTHERWISE = "base weights can be done without: --pretrained none trains from scratch"


@dataclass(frozen=True)
class MissingWeightsRemedy:
    """Fetch of missing weights for one run."""

    dataset: Path | None
    workspace: Workspace
    machine: Machine
    report: Report
    show: Callable[[float, str], None]
    """Called with the progress of a download, 0 to 1, and its text."""
    is_stopping: Callable[[], bool]
    may_choose: bool
    """Whether base weights may be done without: neither files of the user's nor `--pretrained` are given."""
    trains: bool

    def __call__(self, config: TrainingConfig) -> TrainingConfig:
        """Fetch what can be fetched; returns the configuration, which trains from scratch where that was chosen.

        What is still missing is left to the checks of the run. Raises MissingWeights for a download that broke off,
        DiskFull, WorkspaceBusy, InvalidConfig, StopRequested.
        """
        weights = Weights(self.machine.weights_folder)
        files = [] if self.dataset is None else _missing(weights, published_preparation(config, self.machine))
        choice, base = None, []
        if self.trains and self.may_choose and config.pretrained == "auto":
            missing = _missing(weights, published_base_weights(config, self.machine))
            choice = self._kept_choice(missing)
            base = [] if self._is_begun() or (choice is not None and choice.pretrained == "none") else missing
        needed = [*files, *base]
        if needed and not self._has_other_faults(config):
            reason = unreachable_reason(needed[0])
            if base and choice is None and (reason is None or not files):
                choice = self._choose(reason)
            if reason is None:
                self._fetch(weights, needed)
        if choice is None or choice.pretrained == "auto":
            return config
        self._warn_of_scratch(choice)
        return config.model_copy(update={"pretrained": "none"})

    def _kept_choice(self, base: Sequence[PublishedFile]) -> BaseWeightsChoice | None:
        """The choice of an earlier start; one of a run that has trained nothing is void once the weights are here."""
        choice = BaseWeightsChoice.read(self.workspace)
        return choice if base or self._is_begun() else None

    def _choose(self, reason: str | None) -> BaseWeightsChoice:
        """Choose by whether the weights can be fetched, and keep the choice. `reason`: why they cannot."""
        choice = BaseWeightsChoice(pretrained="auto")
        if reason is not None:
            choice = BaseWeightsChoice(
                pretrained="none", reason=f"the base weights were not on this machine, and {reason}"
            )
        choice.write(self.workspace)
        return choice

    def _warn_of_scratch(self, choice: BaseWeightsChoice) -> None:
        self.report(
            Warned(
                message=f"training from scratch: {choice.reason}. Later starts of this run do the same. A good voice "
                "from scratch needs far more recordings and time; to start from base weights, give their files with "
                "-pg and -pd, under a new name with -e"
            )
        )

    def _is_begun(self) -> bool:
        from rvc_engine.checkpoints.pairs import is_begun  # loads torch

        return is_begun(self.workspace)

    def _has_other_faults(self, config: TrainingConfig) -> bool:
        """Whether the run ends before any work for lack of recordings or slices: then nothing is fetched for it."""
        if self.dataset is None:
            return bool(external.check_workspace(self.workspace, config, trains=self.trains).faults)
        try:
            return not list_recordings(self.dataset)
        except EngineError:
            return True

    def _fetch(self, weights: Weights, files: Sequence[PublishedFile]) -> None:
        total = sum(file.download_size for file in files)
        names = ", ".join(dict.fromkeys(file.id for file in files))
        self.report(Log(message=f"fetching {names}, {total / 1e6:.0f} MB, into {weights.folder}"))
        done: dict[str, int] = {}

        def on_progress(file: PublishedFile, num_bytes: int) -> None:
            if self.is_stopping():
                raise StopRequested
            done[file.key] = num_bytes
            self.show(sum(done.values()) / total, f"fetching {file.key}, {sum(done.values()) / 1e6:.0f} MB")

        try:
            fetch(weights, files, on_progress)
        except MissingWeights as error:
            raise MissingWeights(f"{error}. The same command goes on with the download; {_OTHERWISE}") from error
        except OSError as error:
            raise InvalidConfig(
                f"cannot write to {weights.folder} ({error.strerror}); give another folder with --weights; {_OTHERWISE}"
            ) from error
        self.report(Log(message=f"fetched {names} from {urlsplit(url_of(files[0])).netloc}, verified"))


def _missing(weights: Weights, files: Sequence[PublishedFile]) -> list[PublishedFile]:
    return [file for file in files if weights.verify(file) != "verified"]
