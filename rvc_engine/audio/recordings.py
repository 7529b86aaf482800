"""The recordings of a dataset folder, with the names that their owner gave them. No torch.

A folder of audio files is a dataset. The server stores uploads under generated names, so that no path is built from
untrusted input, and writes `recordings.json` beside them: {"files": [{"path": "000001.wav", "name": "..."}]}.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rvc_engine.errors import InvalidDataset

MANIFEST = "recordings.json"
NOT_RECORDINGS = frozenset(
    {
        *(".md", ".rst", ".txt", ".rtf", ".doc", ".docx", ".pdf", ".html", ".lab", ".textgrid", ".srt", ".lrc"),
        *(".json", ".yaml", ".yml", ".toml", ".xml", ".csv", ".tsv", ".db", ".sqlite", ".ini", ".cfg", ".log"),
        *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp", ".py", ".sh", ".bat", ".sha256"),
        *(".npy", ".npz", ".pth", ".pt", ".index"),
    }
)
"""Suffixes of other files that lie beside recordings. Files with any other suffix are opened to detect their format."""


@dataclass(frozen=True)
class Recording:
    """A file of a dataset, which may turn out not to be audio when it is decoded."""

    path: Path
    name: str
    """The owner's name for it: for messages, never for paths."""


class _ManifestRow(BaseModel):
    path: str
    name: str


class _Manifest(BaseModel):
    files: list[_ManifestRow]


def list_recordings(folder: Path) -> list[Recording]:
    """List the files of a dataset in a stable order: by name, or in the order of the manifest.

    Without a manifest, hidden files and those with a suffix in NOT_RECORDINGS are left out.

    Raises InvalidDataset when the folder does not exist or holds no recordings, or when the manifest is malformed or
    names anything but files inside the folder.
    """
    if folder.is_file():
        raise InvalidDataset(f"{folder} is a file; give the folder that holds the recordings")
    if not folder.is_dir():
        raise InvalidDataset(f"there is no dataset folder {folder}; give the folder that holds the recordings")
    manifest = folder / MANIFEST
    recordings = _from_manifest(manifest) if manifest.is_file() else _from_folder(folder)
    if not recordings:
        raise InvalidDataset(
            f"the dataset folder {folder} holds no files that could be recordings; put recordings of one voice into it"
        )
    return recordings


def _from_folder(folder: Path) -> list[Recording]:
    return [
        Recording(path, _printable(path.relative_to(folder).as_posix()))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() not in NOT_RECORDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _from_manifest(manifest: Path) -> list[Recording]:
    try:
        rows = _Manifest.model_validate_json(manifest.read_bytes()).files
    except (ValidationError, OSError) as error:
        raise InvalidDataset(
            f"{manifest} is not a list of recordings in the server's format; delete or correct it"
        ) from error
    return [Recording(_inside(manifest.parent, row.path), _printable(row.name)) for row in rows]


def _inside(folder: Path, name: str) -> Path:
    """The path of a file in the folder, links resolved. Raises InvalidDataset when it lies elsewhere."""
    try:
        path = (folder / name).resolve()
        is_inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name too long, a null character, a loop of links
        is_inside = False
    if not is_inside:
        raise InvalidDataset(f"{folder / MANIFEST} names {name!r}, which is not a file inside the dataset's folder")
    return path


def _printable(name: str) -> str:
    """Make a name valid UTF-8 without control characters, for logs and terminals (file systems allow both)."""
    valid = name.encode(errors="replace").decode()
    return "".join("?" if unicodedata.category(character) == "Cc" else character for character in valid)
