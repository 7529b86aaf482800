"""Copies of files on disk: hashed on the way, or hard links where these are possible."""

import errno
import hashlib
import os
from pathlib import Path

import structlog

from rvc_engine.environment.files import is_first_copy

logger = structlog.get_logger(__name__)

_CHUNK = 1 << 20


def copy_and_hash(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file and sync it to disk; returns the copy's sha256 and size in bytes."""
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            write.write(chunk)
            size += len(chunk)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest(), size


def link_or_copy(source: Path, target: Path) -> str | None:
    """Hard-link a file, or copy it where links are not possible; returns a copy's sha256, None for a link."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError as error:  # across file systems, on one without hard links, or with too many of them
        if is_first_copy(target.parent):
            logger.warning(
                "files are copied, not linked, and take more space", folder=str(target.parent), reason=str(error)
            )
        return copy_and_hash(source, target)[0]
    return None


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
