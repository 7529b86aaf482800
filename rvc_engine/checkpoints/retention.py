"""Registry and retention of a run's saves: keep all, the latest, or the latest and the best. No torch.

Only files listed in `saves.json` are ever deleted, and only after the newer save is on disk: pairs that were in the
folder before (base weights, another program's), recovery checkpoints, the voice and `2333333` pairs are not listed.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from rvc_engine.config import TrainingConfig
from rvc_engine.environment.files import is_in_use, unlink
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.checksum import sha256_of

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison


class Save(BaseModel):
    """One save and its files."""

    model_config = ConfigDict(frozen=True)

    step: int
    epoch: int
    files: list[str]
    """Relative to the run's folder."""
    sha256: str = ""
    """sha256 of its `G_` file; empty where it has none, and in old lists."""
    written: int = 0
    """Modification time of its `G_` file, nanoseconds since 1970."""

    @property
    def generator(self) -> str | None:
        """Name of its `G_` file."""
        return next((name for name in self.files if name.startswith("G_")), None)


class _Contents(BaseModel):
    saves: list[Save] = []
    claimed: list[str] = []


NUM_CLAIMS = 2
"""The newest save and the one before it, which is still on disk when a run dies between claim and rename."""


class SaveRegistry:
    """Registry of a run's saves on disk (`saves.json`), oldest first."""

    def __init__(self, root: Path) -> None:
        """`root`: the run's folder."""
        self._root = root

    @property
    def path(self) -> Path:
        """Path of the list."""
        return self._root / "saves.json"

    def all(self) -> list[Save]:
        """Saves, oldest first; none when the list is unreadable, so their files are kept."""
        return self._contents().saves

    def _contents(self) -> _Contents:
        try:
            return _Contents.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return _Contents()

    def claim(self, sha256: str) -> None:
        """Record the sha256 of a `G_` file of this run, before the file has its name.

        A save is listed only once it is complete, and one named `2333333` never: without the claim, a run that died
        before that would take its own pair for another program's, and resume from it in place of its checkpoint.
        """
        contents = self._contents()
        self._write(contents.saves, [*(old for old in contents.claimed if old != sha256), sha256][-NUM_CLAIMS:])

    def is_own(self, generator: Path) -> bool:
        """Whether this run wrote a `G_` file, and no other program has replaced it."""
        contents = self._contents()
        if any(generator.name == save.generator and self._is_unchanged(save) for save in contents.saves):
            return True
        if not contents.claimed:
            return False
        return sha256_of(generator) in contents.claimed

    def _is_unchanged(self, save: Save) -> bool:
        """Whether the pair of a save is still this run's: other programs may give theirs the same name."""
        path = None if save.generator is None else self._root / save.generator
        if path is None or not save.sha256 or not path.is_file():
            return True
        return path.stat().st_mtime_ns == save.written or sha256_of(path) == save.sha256

    def add(self, save: Save, config: TrainingConfig, score: "Callable[[int], SupportsRichComparison]") -> list[Save]:
        """Register a save that is on disk, and delete those that `config.keep_saves` no longer keeps.

        `score` maps a step to its score, lower being better. Returns the deleted saves.
        """
        contents = self._contents()
        if save.generator is not None and contents.claimed:
            written = (self._root / save.generator).stat().st_mtime_ns
            save = save.model_copy(update={"sha256": contents.claimed[-1], "written": written})
        saves = [*(old for old in contents.saves if old.step != save.step), save]
        kept = select(saves, config, score)
        dropped = [each for each in saves if each not in kept]
        self._write(saves, contents.claimed)  # both first: a crash before the files are deleted leaves none unlisted
        needed = {name for each in kept for name in each.files}
        in_use = []
        for each in dropped:
            is_own = self._is_unchanged(each)
            try:
                for name in set(each.files) - needed:
                    if is_own or "/" in name:  # a file in a subfolder is not of the pair
                        unlink(self._root / name)
            except OSError as error:
                if not is_in_use(error):
                    raise
                in_use.append(each)  # it stays listed, and the next save deletes it
        if dropped:
            self._write([each for each in saves if each in kept or each in in_use], contents.claimed)
        return dropped

    def _write(self, saves: Sequence[Save], claimed: Sequence[str]) -> None:
        rows = _Contents(saves=list(saves), claimed=list(claimed)).model_dump(mode="json")
        write_atomically(self.path, json.dumps(rows, indent=1, ensure_ascii=False).encode())


def select(
    saves: Sequence[Save], config: TrainingConfig, score: "Callable[[int], SupportsRichComparison]"
) -> list[Save]:
    """Saves to keep, in their order, always with the newest."""
    match config.keep_saves:
        case "all":
            return list(saves)
        case "latest":
            return list(saves[-1:])
        case "best":
            newest_first = saves[::-1]  # equal scores, such as of those not measured, keep this order
            best = sorted(newest_first, key=lambda save: score(save.step))[: config.num_best_saves]
            return [save for save in saves if save in best or save == saves[-1]]
