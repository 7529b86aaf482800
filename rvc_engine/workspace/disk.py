"""Checks of free disk space, and the error for a full disk. No torch."""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rvc_engine.environment.files import other_spelling
from rvc_engine.errors import DiskFull, InvalidConfig

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})
# fmt: off
TRANSIENT_ERRNOS = frozenset({
    errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.EBUSY,
    errno.ENOLCK, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
})
# fmt: on
"""Failing or read-only disks, network file systems that do not answer, too many open files, too little memory."""


def is_disk_full(error: OSError) -> bool:
    """Whether an error means a full disk, an exceeded quota or a limit on file sizes."""
    return error.errno in _FULL


def is_disk_unavailable(error: OSError) -> bool:
    """Whether the same action may succeed later: a disk is full, or fails for now."""
    return is_disk_full(error) or error.errno in TRANSIENT_ERRNOS


@contextlib.contextmanager
def translating_disk_full(folder: Path) -> Iterator[None]:
    """Translate the OSError of a full disk (or quota, or file size limit) to DiskFull; other errors pass through."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(f"the disk of {folder} is full; free some space and start again") from error


def free_bytes(folder: Path) -> int:
    """Bytes available to this user on the file system of a folder, which may not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where the path does not exist."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_free_space(folder: Path, needed: int, purpose: str, advice: str = "free some space and start again") -> None:
    """Raise DiskFull, with both numbers, when the disk of `folder` has less than `needed` bytes left.

    Writing may still fail later, on a quota for example.
    """
    free = free_bytes(folder)
    if free < needed:
        raise DiskFull(
            f"{purpose} needs {format_bytes(needed)}, but the disk of {folder} has {format_bytes(free)} left; {advice}"
        )


def format_bytes(num_bytes: int) -> str:
    """A size with its unit, such as `1.3 GB`."""
    amount, unit = float(num_bytes), "bytes"
    for bigger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, bigger
    return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"


def check_spelling(folder: Path) -> None:
    """Raise InvalidConfig for a folder that this disk takes for another, because it ignores case."""
    if (other := other_spelling(folder)) is not None:
        raise InvalidConfig(
            f"{folder} would be the folder of {other}, which is another voice: this disk does not tell capital letters "
            "from small ones; choose another name"
        )


def check_writable(folder: Path, *inner: Path) -> None:
    """Make `folder`, and try to write into it and into those of the `inner` folders that exist; leaves no file there.

    Raises InvalidConfig for one that cannot be written to, DiskFull.
    """
    for each in (folder, *(path for path in inner if path.exists())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=each):
                pass
        except OSError as error:
            raise unwritable(each, error) from error


def unwritable(folder: Path, error: OSError) -> InvalidConfig | DiskFull:
    """Error about a folder that cannot be written to, with advice that fits the cause."""
    if is_disk_full(error):
        return DiskFull(f"the disk of {folder} is full; free some space and start again")
    advice = "a file is in its place: move that file away" if error.errno in _NOT_A_FOLDER else "make it writable"
    return InvalidConfig(f"cannot write to {folder} ({error.strerror}); {advice}, or choose another folder")
