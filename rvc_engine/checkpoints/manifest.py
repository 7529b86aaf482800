"""`manifest.json` beside recovery checkpoints: which are there, which is the newest, what makes each whole. No torch.

The engine writes it; whoever keeps copies of checkpoints elsewhere reads and writes the same form.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
"""Fields of the configuration that must stay as they were for a checkpoint to be gone on from."""


@dataclass(frozen=True)
class CheckpointEntry:
    """One recovery checkpoint."""

    file: str
    step: int
    epoch: int
    size: int
    sha256: str

    def fault(self, folder: Path) -> str | None:
        """What is wrong with its file in a folder, as the end of a sentence; None when it is whole."""
        path = folder / self.file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes in place of {self.size}"
        if sha256_of(path) != self.sha256:
            return "does not match its checksum"
        return None


def manifest_in(folder: Path) -> Path:
    """Where a folder's manifest lies."""
    return folder / "manifest.json"


def read_entries(folder: Path) -> list[CheckpointEntry]:
    """Oldest first; none where there is no manifest. IncompatibleCheckpoint when it cannot be read.

    It is replaced atomically, so one that cannot be read was damaged from outside.
    """
    manifest = manifest_in(folder)
    if not manifest.exists():
        return []
    try:
        return [CheckpointEntry(**row) for row in json.loads(manifest.read_text())["checkpoints"]]
    except (ValueError, KeyError, TypeError) as error:
        raise IncompatibleCheckpoint(
            f"{manifest} cannot be read ({error}), so the run's checkpoints cannot be trusted; "
            f"restore it, or delete {folder} to go on from the newest G_ and D_ files, if there are any"
        ) from error


def write_entries(folder: Path, entries: Sequence[CheckpointEntry]) -> None:
    """Write the manifest, then let go of the checkpoints that it does not name."""
    rows = {"checkpoints": [asdict(row) for row in entries]}
    write_atomically(manifest_in(folder), json.dumps(rows, indent=1).encode())
    kept = {row.file for row in entries}
    for file in folder.glob("step_*.pt"):
        if file.name not in kept:
            file.unlink(missing_ok=True)
