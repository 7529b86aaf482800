"""`manifest.json` beside recovery checkpoints: their order, sizes and checksums. No torch.

The engine writes it; copies of checkpoints in the server's storage use the same format.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rvc_engine.environment.files import unlink
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.checksum import sha256_of

KEPT_CHECKPOINTS = 2
FIXED_CHOICES = frozenset(
    {
        "version",
        "sample_rate",
        "f0",
        "width",
        "speaker_id",
        "speakers",
        "seed",
        "pretrained",
        "content",
        "pitch",
    }
)
"""Configuration fields that must be unchanged for a run to resume from its checkpoint."""


@dataclass(frozen=True)
class CheckpointEntry:
    """One recovery checkpoint."""

    file: str
    step: int
    epoch: int
    size: int
    sha256: str

    def fault(self, folder: Path) -> str | None:
        """Damage of its file in a folder, as the end of a sentence; None when the file is intact."""
        path = folder / self.file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes instead of {self.size}"
        if sha256_of(path) != self.sha256:
            return "does not match its checksum"
        return None


def manifest_in(folder: Path) -> Path:
    """Path of a folder's manifest."""
    return folder / "manifest.json"


def read_entries(folder: Path) -> list[CheckpointEntry]:
    """Checkpoints of a folder, oldest first; empty without a manifest.

    Raises IncompatibleCheckpoint when the manifest is unreadable: it is replaced atomically, so a crash of a run cannot
    have damaged it.
    """
    manifest = manifest_in(folder)
    if not manifest.exists():
        return []
    try:
        return [CheckpointEntry(**row) for row in json.loads(manifest.read_text(encoding="utf-8"))["checkpoints"]]
    except (ValueError, KeyError, TypeError) as error:
        raise IncompatibleCheckpoint(
            f"{manifest} cannot be read ({error}), so the run's checkpoints cannot be trusted; "
            f"restore it, or move {folder} elsewhere to resume from the newest G_ and D_ files beside it"
        ) from error


def write_entries(folder: Path, entries: Sequence[CheckpointEntry]) -> None:
    """Write the manifest of an existing folder, then delete the checkpoints that are not in it."""
    rows = {"checkpoints": [asdict(row) for row in entries]}
    write_atomically(manifest_in(folder), json.dumps(rows, indent=1).encode(), make_folder=False)
    kept = {row.file for row in entries}
    for file in folder.glob(f"step_{'[0-9]' * 9}.pt"):  # not a copy that someone keeps there
        if file.name not in kept:
            unlink(file)
