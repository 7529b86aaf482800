"""Packing of the user's files into one to upload: a zip or a recording unchanged, anything else packed into a zip."""

import contextlib
import errno
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rvc_train.errors import UsageError


@contextlib.contextmanager
def packed(paths: Sequence[Path]) -> Iterator[Path]:
    """The file to upload. A folder, or several files, become a temporary zip that is deleted afterwards.

    Recordings are stored, not compressed: audio does not shrink, and storing costs no time. Raises UsageError for a
    path that does not exist and when there are no files.
    """
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        named = ", ".join(map(str, missing)) or "nothing"
        raise UsageError(f"cannot upload {named}: there is no such file or folder")
    if len(paths) == 1 and paths[0].is_file():
        yield paths[0]
        return
    members = list(_members(paths))
    if not members:
        raise UsageError(f"{', '.join(map(str, paths))} contains no files; put recordings of one voice into it")
    with tempfile.TemporaryDirectory(prefix="rvc-train-") as folder:
        archive = Path(folder) / "dataset.zip"
        with _room_for(archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path, name in members:
                target.write(path, name)
        yield archive


@contextlib.contextmanager
def _room_for(archive: Path) -> Iterator[None]:
    """Raise UsageError when the disk of the temporary zip becomes full."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        usage = shutil.disk_usage(archive.parent)
        raise UsageError(
            f"the disk of {archive.parent.parent} is full: {usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are "
            "free, and the recordings are packed there before they are sent; free some space, or set TMPDIR to a "
            "folder on another disk"
        ) from error


def _members(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with its unique name in the archive, without hidden files.

    With several folders, names begin with the folder's: each may be a speaker.
    """
    taken: set[str] = set()
    for path in paths:
        files = [(path, path.name)] if path.is_file() else _files_below(path)
        if len(paths) > 1 and path.is_dir():
            files = [(file, f"{path.resolve().name}/{name}") for file, name in files]
        for file, name in files:
            free = _free_name(name, taken)
            taken.add(free)
            yield file, free


def _files_below(folder: Path) -> list[tuple[Path, str]]:
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            found.append((path, inside.as_posix()))
    return found


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with a number when another file has it (two folders may contain the same names)."""
    path = Path(name)
    candidate, number = name, 2
    while candidate in taken:
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}").as_posix()
        number += 1
    return candidate
