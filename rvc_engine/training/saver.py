"""The saves of `save_every_epochs`: a G_/D_ pair and optionally a small voice file; each save is evaluated."""

from functools import partial
from pathlib import Path
from typing import Any

from rvc_engine.checkpoints.async_writer import AsyncCheckpointer
from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.retention import Save, SaveRegistry
from rvc_engine.checkpoints.step_numbers import make_way, step_in_name
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs
from rvc_engine.config import TrainingConfig
from rvc_engine.evaluation.runner import EvaluationRunner
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.voices import export
from rvc_engine.workspace.layout import Workspace


class CheckpointSaver:
    """Writes the saves of one run in the background, while they are evaluated."""

    def __init__(
        self,
        workspace: Workspace,
        config: TrainingConfig,
        hparams: Hyperparameters,
        checkpointer: AsyncCheckpointer,
        evaluation: EvaluationRunner,
        report: StageReport,
    ) -> None:
        self._workspace, self._config, self._hparams = workspace, config, hparams
        self._checkpointer, self._evaluation, self._report = checkpointer, evaluation, report
        self._has_saved = False

    def save(self, state: GanTrainState, progress: TrainProgress) -> None:
        """Start writing the state as it is, and evaluate it meanwhile. The save is logged once it is complete."""
        self._checkpointer.wait()  # for the names of the save before
        number = make_way(
            self._workspace.root, progress.step, self._config.save_only_latest, self._is_own, self._report.warn
        )
        self._has_saved = True
        self._checkpointer.submit(
            pair_trees(state, progress, self._config.learning_rate, number),
            partial(self._write, progress),
            partial(self._apply_retention, progress),
        )
        self._evaluation.run(state.synthesizer, progress)

    def _is_own(self, generator: Path) -> bool:
        """Whether this run wrote a `G_` file; the only pair kept is read no more once this process has replaced it."""
        is_latest = step_in_name(generator) is None
        return (is_latest and self._has_saved) or SaveRegistry(self._workspace.root).is_own(generator)

    def _write(self, progress: TrainProgress, trees: dict[str, dict[str, Any]]) -> list[Path]:
        """Write a save. Returns the files that no later save overwrites."""
        files = write_pair(self._workspace.root, trees)
        if self._config.save_only_latest:
            files = []  # each save overwrites the one before
        if self._config.save_every_weights:
            path = (
                self._workspace.weights / f"{self._workspace.stem}_e{completed_epochs(progress)}_s{progress.step}.pth"
            )
            details = export.VoiceDetails.from_checkpoint(self._workspace, self._config, progress)
            export.write_voice(path, next(iter(trees.values()))["model"], self._hparams, details)
            files.append(path)
        return files

    def _apply_retention(self, progress: TrainProgress, files: list[Path]) -> None:
        """Log the new save, then delete the saves that `keep_saves` drops."""
        self._report.log(f"saved epoch {completed_epochs(progress)}, step {progress.step}")
        names = [path.relative_to(self._workspace.root).as_posix() for path in files]
        present = {old.step: self._num_bytes(old) for old in SaveRegistry(self._workspace.root).all()}
        save = Save(step=progress.step, epoch=completed_epochs(progress), files=names)
        for old in SaveRegistry(self._workspace.root).add(save, self._config, self._evaluation.score):
            megabytes = present.get(old.step, 0) / 1e6
            self._report.log(
                f"deleted the save of epoch {old.epoch}, step {old.step} (keep_saves={self._config.keep_saves}): "
                f"{megabytes:.0f} MB are free again"
            )

    def _num_bytes(self, save: Save) -> int:
        paths = [self._workspace.root / name for name in save.files]
        return sum(path.stat().st_size for path in paths if path.is_file())
