"""`evaluation.json`: scores of a run's saves, the best save, and the time spent on evaluations. No torch.

A run that resumes at a step drops the evaluations of later steps, which are trained and evaluated again. Only the best
is kept, as its voice file is.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rvc_engine.environment.files import unlink
from rvc_engine.events import TrainingEnded
from rvc_engine.workspace.atomic_files import write_atomically

FILE_NAME = "evaluation.json"
SELECTION_METRIC = "eval/mel"
PITCH_METRIC = "eval/f0_cents"
MAX_CENTS = 100.0
"""Pitch error from which a save cannot be the best while another is below: a semitone, where melodies are wrong."""
Score = tuple[bool, float]
"""Score of a save, lower being better: whether its pitch is wrong, and its selection metric."""
UNMEASURED: Score = (True, math.inf)


class Row(BaseModel):
    """One evaluation."""

    model_config = ConfigDict(frozen=True)

    step: int
    epoch: int
    values: dict[str, float]
    files: list[str] = []
    """Previews, as paths relative to the run's folder."""

    @property
    def score(self) -> Score:
        """Whether the pitch is wrong, then the value of the selection metric; lower is better.

        A pitch that was not measured, since render and recording are nowhere voiced together, is wrong too.
        """
        value = self.values.get(SELECTION_METRIC, math.inf)
        if not math.isfinite(value):
            return UNMEASURED
        return not self.values.get(PITCH_METRIC, math.inf) <= MAX_CENTS, value


class _Contents(BaseModel):
    clips: list[str] = []
    held_out: bool = False
    spent_seconds: float = 0.0
    best: Row | None = None
    evaluations: list[Row] = []
    end: TrainingEnded | None = None


def kept_evaluations(root: Path) -> tuple[list[Row], Row | None, bool] | None:
    """Evaluations in a run's folder, the best, and whether they are of held-out clips; None without any."""
    try:
        contents = _Contents.model_validate_json((root / FILE_NAME).read_bytes())
    except (OSError, ValidationError):
        return None
    return contents.evaluations, contents.best, contents.held_out


def kept_end(root: Path) -> TrainingEnded | None:
    """The end of a run with total_epochs=auto, from its folder."""
    try:
        return _Contents.model_validate_json((root / FILE_NAME).read_bytes()).end
    except (OSError, ValidationError):
        return None


def add_quality(root: Path, step: int, epoch: int, values: Mapping[str, float]) -> None:
    """Add the scores of a save's conversions to its evaluation, or a row of them alone where there is none."""
    path = root / FILE_NAME
    try:
        contents = _Contents.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        contents = _Contents()
    rows = {row.step: row for row in contents.evaluations}
    row = rows.get(step, Row(step=step, epoch=epoch, values={}))
    rows[step] = row = row.model_copy(update={"values": {**row.values, **values}})
    contents.evaluations = [rows[number] for number in sorted(rows)]
    if contents.best is not None and contents.best.step == step:
        contents.best = row
    _write(path, contents)


def _write(path: Path, contents: _Contents) -> None:
    # NaN is not valid JSON
    text = json.dumps(contents.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode())


@dataclass
class EvaluationHistory:
    """Contents of the file; every change is written at once."""

    root: Path
    """The run's folder."""
    clips: Sequence[str]
    """Names of the evaluated clips. Scores of other clips are not comparable, and are dropped."""
    held_out: bool
    rows: list[Row] = field(default_factory=list)
    """In the order of steps."""
    best: Row | None = None
    spent_seconds: float = 0.0
    end: TrainingEnded | None = None
    """End of the training with total_epochs=auto; dropped once the run goes on."""

    @classmethod
    def load(cls, root: Path, clips: Sequence[str], held_out: bool, warn: Callable[[str], None]) -> Self:
        """Load the history of a run; empty, with a warning, if the file is unreadable: training does not need it."""
        history = cls(root, clips, held_out)
        try:
            contents = _Contents.model_validate_json(history.path.read_bytes())
        except FileNotFoundError:
            return history
        except (OSError, ValidationError) as error:
            warn(f"{history.path} cannot be read ({type(error).__name__}); evaluations start from an empty history")
            return history
        if contents.clips == list(clips):
            history.rows, history.best = contents.evaluations, contents.best
            history.spent_seconds = contents.spent_seconds
        return history

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.root / FILE_NAME

    def is_best(self, row: Row) -> bool:
        """Whether no evaluation so far has a better score."""
        return row.score != UNMEASURED and (self.best is None or row.score <= self.best.score)

    def add(self, row: Row, seconds: float, *, is_best: bool) -> None:
        """Add a row that took `seconds`, replacing one of the same step, and write the file."""
        self.spent_seconds += seconds
        if is_best:
            self.best = row
        self.rows = sorted([*(old for old in self.rows if old.step != row.step), row], key=lambda each: each.step)
        self._write()

    def set_end(self, end: TrainingEnded) -> None:
        """Record the end of the training, and write the file."""
        self.end = end
        self._write()

    def truncate_after(self, step: int) -> None:
        """Drop evaluations after a step, with their previews. The best is kept, as its voice file is."""
        beyond = [row for row in self.rows if row.step > step]
        if not beyond:
            return
        self.rows = [row for row in self.rows if row.step <= step]
        self._write()
        self._delete_files(beyond)

    def clear(self) -> None:
        """Drop all evaluations, for a run that starts from the beginning."""
        dropped = [*self.rows, *([self.best] if self.best is not None else [])]
        self.rows, self.best, self.spent_seconds = [], None, 0.0
        unlink(self.path)
        self._delete_files(dropped)

    def _delete_files(self, rows: Sequence[Row]) -> None:
        for name in {name for row in rows for name in row.files}:
            unlink(self.root / name)

    def _write(self) -> None:
        contents = _Contents(
            clips=list(self.clips),
            held_out=self.held_out,
            spent_seconds=self.spent_seconds,
            best=self.best,
            evaluations=self.rows,
            end=self.end,
        )
        _write(self.path, contents)
