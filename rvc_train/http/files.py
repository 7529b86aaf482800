"""Files that are sent and received: what is offered for download, progress, checksums."""

import hashlib
import os
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Protocol

from rvc_engine.names.voices import storable


class Offered(Protocol):
    """A file that the server offers: an artifact, or one of a preview."""

    name: str
    url: str
    size: int
    sha256: str


Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def free_paths(folder: Path, files: Sequence[Offered], *, replace: bool = False) -> list[Path]:
    """Paths for files of one job in a folder, where they are already or would replace no other file, unless `replace`.

    All of them get the same number where one needs it (`anna (2).pth`, `anna (2).index`), as RVC pairs a voice and its
    index by their names.
    """
    names = [PurePath(storable(file.name)) for file in files]
    marks = chain([""], (f" ({number})" for number in count(2)))
    choices = ([folder / f"{name.stem}{mark}{name.suffix}" for name in names] for mark in marks)
    return next(paths for paths in choices if replace or all(map(_is_free, paths, files)))


def _is_free(path: Path, file: Offered) -> bool:
    return not os.path.lexists(path) or is_complete(path, file)


def is_complete(path: Path, file: Offered) -> bool:
    """Whether a path is the whole file that the server offers."""
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
