"""Files on disks of any system: replaced, deleted, linked and synced, with the ways of Windows allowed for. No torch.

Windows refuses to replace, delete or rename a file that a program has open: a reader, a virus scanner or an indexer.
Most of them close it within a moment, so these functions try again before they fail with an error that names it.
"""

import os
import stat
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

SECONDS_IN_USE = 5.0
"""Time that a file may be in use before replacing or deleting it fails."""
_PAUSE_SECONDS = 0.05
_ACCESS_DENIED, _SHARING, _LOCKED, _MAPPED = 5, 32, 33, 1224
_IN_USE = frozenset([_ACCESS_DENIED, _SHARING, _LOCKED, _MAPPED])
"""Windows' error codes for a file that a program has open, locked or mapped. The first is also that of a file which
this user may not change."""
_disks_with_copies: set[int] = set()


def replace(source: Path, target: Path) -> None:
    """Rename a file to a name that another may have. OSError names the target that is in use."""
    _retry(lambda: source.replace(target), target)


def rename(source: Path, target: Path) -> None:
    """Rename a file or a folder to a free name. OSError names the source that is in use, it or a file in it."""
    _retry(lambda: source.rename(target), source)


def unlink(path: Path) -> None:
    """Delete a file if it exists. OSError names the file that is in use."""
    _retry(lambda: path.unlink(missing_ok=True), path)


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """The first bytes of a plain file: a program that was taken over may leave a link or a pipe. Raises OSError."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # the first two are missing on Windows, the last elsewhere
        flags |= getattr(os, name, 0)
    if path.is_symlink():  # where no flag refuses it
        raise OSError(f"{path} is a link")
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a plain file")
        return file.read(max_bytes)


def is_in_use(error: OSError) -> bool:
    """Whether Windows refused a change because a program has the file open. Never on other systems."""
    return getattr(error, "winerror", None) in _IN_USE


def _retry(change: Callable[[], object], path: Path) -> None:
    """Make a change until no program has the path open, for `SECONDS_IN_USE` at most."""
    deadline = time.monotonic() + SECONDS_IN_USE
    while True:
        try:
            change()
            return
        except OSError as error:
            if not is_in_use(error) or time.monotonic() > deadline:
                if is_in_use(error):
                    error.filename, error.filename2 = str(path), None
                raise
            time.sleep(_PAUSE_SECONDS)


def other_spelling(path: Path) -> str | None:
    """Name of the entry that a path means on a disk that ignores case, where it is another than the path's own name."""
    if not path.exists():
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    if path.name in names:
        return None
    return next((name for name in names if _folded(name) == _folded(path.name)), None)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def is_first_copy(folder: Path) -> bool:
    """Whether this is the process's first copy to a disk because it has no links: once true, for one message."""
    disk = folder.stat().st_dev
    is_first = disk not in _disks_with_copies
    _disks_with_copies.add(disk)
    return is_first


def sync_file(path: Path) -> None:
    """Sync a file's content to disk. Opened for writing: Windows refuses to sync what is open for reading alone."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
