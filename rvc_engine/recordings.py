"""The recordings of a dataset folder, with the names their owner knows them by. No torch.

A folder of audio files is a dataset. The server stores uploads under names of its own making, so that no path is built
from what a stranger typed, and leaves `recordings.json` beside them:
{"files": [{"path": "000001.wav", "name": "..."}]}.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.errors import InvalidDataset

MANIFEST = "recordings.json"


@dataclass(frozen=True)
class Recording:
    """One file of a dataset; whether it is audio at all, only decoding tells."""

    path: Path
    name: str
    """What its owner calls it: for messages, never for paths."""


def list_recordings(folder: Path) -> list[Recording]:
    """All files of a dataset in a stable order (by name), hidden ones left out.

    Raises InvalidDataset when there is no such folder or it holds no file.
    """
    if not folder.is_dir():
        raise InvalidDataset(f"there is no dataset folder {folder}; give the folder that holds the recordings")
    manifest = folder / MANIFEST
    if manifest.is_file():
        rows = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        recordings = [Recording(folder / row["path"], row["name"]) for row in rows]
    else:
        recordings = [
            Recording(path, path.relative_to(folder).as_posix())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
    if not recordings:
        raise InvalidDataset(f"the dataset folder {folder} holds no files; put recordings of one voice into it")
    return recordings
