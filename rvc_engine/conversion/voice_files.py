"""The files of a voice that a conversion needs, and the saves of a run that may still go on. No torch."""

from dataclasses import dataclass
from pathlib import Path

BEST, LATEST = "best", "latest"


@dataclass(frozen=True)
class VoiceFiles:
    """Files of a voice: one of the first two, and the index where there is one."""

    voice: Path | None = None
    """An exported voice."""
    checkpoint: Path | None = None
    """A `G_` file or a recovery checkpoint, from which the voice is extracted."""
    index: Path | None = None

    @property
    def is_missing(self) -> bool:
        """Whether there is nothing to convert with."""
        return self.voice is None and self.checkpoint is None


def find_save(workspace: Path, save: str) -> Path | None:
    """A save in a workspace outside the data folder, by its number or `latest`."""
    saves = saved_generators(workspace)
    return next(reversed(saves.values()), None) if save == LATEST else saves.get(int(save)) if save != BEST else None


def saved_generators(workspace: Path) -> dict[int, Path]:
    """`G_` files in a job's workspace by the number in their names, the last written at the end."""
    found = {}
    for path in workspace.glob("G_*.pth"):
        number = path.stem.removeprefix("G_")
        if number.isdecimal():
            found[int(number)] = (path.stat().st_mtime, path)
    return {number: path for number, (_, path) in sorted(found.items(), key=lambda each: (each[1][0], each[0]))}
