"""The saves that `save_every_epochs` asks for: a pair in the published form, with it a small voice; both judged."""

from pathlib import Path
from typing import Any

from rvc_engine.checkpoints.async_writer import AsyncCheckpointer
from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.retention import SaveRegistry, Save
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs
from rvc_engine.config import TrainingConfig
from rvc_engine.evaluation.runner import EvaluationRunner
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.voices import export
from rvc_engine.workspace.layout import Workspace


class CheckpointSaver:
    """Of one run. Files are written in the background, while the save is evaluated."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        sizes: Hyperparameters,
        checkpointer: AsyncCheckpointer,
        evaluation: EvaluationRunner,
        report: StageReport,
    ) -> None:
        self._workspace, self._config, self._sizes = workspace, config, sizes
        self._checkpointer, self._evaluation, self._report = checkpointer, evaluation, report

    def save(self, nets: GanTrainState, place: TrainProgress) -> None:
        """Begin to write the nets as they are; judge them meanwhile. It is told once it is whole."""
        config = self._config
        self._checkpointer.submit(
            pair_trees(nets, place, config.learning_rate, config.save_only_latest),
            lambda trees: self._write(trees, place),
            lambda files: self._apply_retention(files, place),
        )
        self._evaluation.run(nets.synthesizer, place)

    def _write(self, trees: dict[str, dict[str, Any]], place: TrainProgress) -> list[Path]:
        """Returns the files that are this save's alone."""
        files = write_pair(self._workspace.root, trees)
        if self._config.save_only_latest:
            files = []  # each takes the place of the one before
        if self._config.save_every_weights:
            path = self._workspace.weights / f"{self._workspace.stem}_e{completed_epochs(place)}_s{place.step}.pth"
            details = export.VoiceDetails.from_checkpoint(self._workspace, self._config, place)
            export.write_voice(path, next(iter(trees.values()))["model"], self._sizes, details)
            files.append(path)
        return files

    def _apply_retention(self, files: list[Path], place: TrainProgress) -> None:
        """Tell of the new save; keep what `keep_saves` wants, now that it is there."""
        self._report.log(f"saved epoch {completed_epochs(place)}, step {place.step}")
        names = [path.relative_to(self._workspace.root).as_posix() for path in files]
        save = Save(step=place.step, epoch=completed_epochs(place), files=names)
        for old in SaveRegistry(self._workspace.root).add(save, self._config, self._evaluation.score):
            self._report.log(
                f"deleted the save of epoch {old.epoch}, step {old.step} (keep_saves={self._config.keep_saves})"
            )
