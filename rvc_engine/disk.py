"""A full disk, told as such. No torch."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from rvc_engine.errors import DiskFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_disk_full(error: OSError) -> bool:
    """Whether that is what an error says: of the disk, a quota or a limit on file sizes."""
    return error.errno in _FULL


@contextlib.contextmanager
def disk_full_told(folder: Path) -> Iterator[None]:
    """Turn the system's word for a full disk (or quota, or file size limit) into DiskFull; other errors pass."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(f"no room is left on the disk of {folder}; free some space and start again") from error
