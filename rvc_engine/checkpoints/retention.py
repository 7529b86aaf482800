"""Which saves stay in a run's folder: all, the latest, or the latest and the best; and which are this run's. No torch.

Only files that `saves.json` names are ever deleted, and only after the newer save is on disk: pairs that lay in the
folder before (base weights, another program's), recovery checkpoints, the voice and `2333333` pairs are not in it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rvc_engine.config import TrainingConfig
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.checksum import sha256_of


class Save(BaseModel):
    """What one save left."""

    model_config = ConfigDict(frozen=True)

    step: int
    epoch: int
    files: list[str]
    """Relative to the run's folder."""


class _Contents(BaseModel):
    saves: list[Save] = []
    claimed: list[str] = []


NUM_CLAIMS = 2
"""The newest save and the one before, which lies there still when a run dies between the claim and the renaming."""


class SaveRegistry:
    """Registry of a run's saves on disk (`saves.json`), oldest first."""

    def __init__(self, root: Path) -> None:
        """`root` is the run's folder."""
        self._root = root

    @property
    def path(self) -> Path:
        """Where the list lies."""
        return self._root / "saves.json"

    def all(self) -> list[Save]:
        """Oldest first. A list that cannot be read names nothing: what it named stays."""
        return self._contents().saves

    def _contents(self) -> _Contents:
        try:
            return _Contents.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return _Contents()

    def claim(self, sha256: str) -> None:
        """Remember that the run writes a `G_` file of these contents, before it has its name.

        A save enters the list only when all of it is there, and one of `2333333` never: without the claim a run that
        died before would take its own pair for another program's, and go on from it in place of its checkpoint.
        """
        contents = self._contents()
        self._write(contents.saves, [*(old for old in contents.claimed if old != sha256), sha256][-NUM_CLAIMS:])

    def is_own(self, generator: Path) -> bool:
        """Whether this run wrote a `G_` file, by its name or by what it holds."""
        contents = self._contents()
        if any(generator.name in save.files for save in contents.saves):
            return True
        if not contents.claimed:
            return False
        return sha256_of(generator) in contents.claimed

    def add(self, save: Save, config: TrainingConfig, score: Callable[[int], float]) -> list[Save]:
        """Register a save that is on disk, and delete those that `config.keep_saves` no longer keeps.

        `score` maps a step to its evaluation, lower being better; infinity without one. Returns what was deleted.
        """
        contents = self._contents()
        saves = [*(old for old in contents.saves if old.step != save.step), save]
        kept = select(saves, config, score)
        dropped = [each for each in saves if each not in kept]
        self._write(saves, contents.claimed)  # first with both: a crash between leaves nothing that no list names
        needed = {name for each in kept for name in each.files}
        for name in {name for each in dropped for name in each.files} - needed:
            (self._root / name).unlink(missing_ok=True)
        if dropped:
            self._write(kept, contents.claimed)
        return dropped

    def _write(self, saves: Sequence[Save], claimed: Sequence[str]) -> None:
        rows = _Contents(saves=list(saves), claimed=list(claimed)).model_dump(mode="json")
        write_atomically(self.path, json.dumps(rows, indent=1, ensure_ascii=False).encode())


def select(saves: Sequence[Save], config: TrainingConfig, score: Callable[[int], float]) -> list[Save]:
    """The saves to keep, in their order. The newest is always one of them."""
    match config.keep_saves:
        case "all":
            return list(saves)
        case "latest":
            return list(saves[-1:])
        case "best":
            newest_first = saves[::-1]  # among those that nobody measured, too
            best = sorted(newest_first, key=lambda save: score(save.step))[: config.num_best_saves]
            return [save for save in saves if save in best or save == saves[-1]]
