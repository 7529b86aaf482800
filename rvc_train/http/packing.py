"""What the user points at, as one file to send: a zip or a recording as it is, anything else packed into a zip."""

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rvc_train.errors import UsageError


@contextlib.contextmanager
def packed(paths: Sequence[Path]) -> Iterator[Path]:
    """The one file to send. A folder, or several files, become a temporary zip that is gone afterwards.

    Recordings are stored, not compressed: audio does not shrink, and storing costs no time.
    Raises UsageError for what does not exist or holds no file.
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
        raise UsageError(f"{', '.join(map(str, paths))} holds no files; put recordings of one voice into it")
    with tempfile.TemporaryDirectory(prefix="rvc-train-") as folder:
        archive = Path(folder) / "dataset.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path, name in members:
                target.write(path, name)
        yield archive


def _members(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with its name in the archive, every name once; hidden files are left out.

    Of several folders the names stay in it: each may be a speaker.
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
    """The name, or the name with a number when another file has it (two folders may hold the same names)."""
    path = Path(name)
    candidate, number = name, 2
    while candidate in taken:
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}").as_posix()
        number += 1
    return candidate
