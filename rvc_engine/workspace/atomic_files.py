"""Files and folders that survive a power cut: temporary name, fsync, rename, fsync of the folder."""

import os
import shutil
from itertools import count
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, make_folder: bool = True) -> None:
    """Write a whole file so that after a crash the old or the new contents are there, never a part.

    `make_folder`: create the folder if it is missing; if False, that raises FileNotFoundError.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
        sync_file(target)


def sync_file(path: Path) -> None:
    """Have a file's bytes written to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def keep_aside(path: Path) -> Path:
    """Rename a file that is to be replaced to `<name>.bak`, or `<name>.bak2` and so on; return its new path."""
    numbered = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))
    kept = next(each for each in numbered if not each.exists())
    path.rename(kept)
    return kept
