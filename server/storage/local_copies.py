"""Copies in the data folder of what the store has: the least recently used go beyond a limit of bytes.

What a job that has not ended needs stays, and so does what was used within an hour: someone may be reading it.
"""

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
import structlog
import uuid6
from sqlmodel import col

from rvc_engine.environment.files import rename
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import TERMINAL_STATUSES
from server.database.engine import read_session
from server.database.tables import Dataset, Job
from server.errors import StorageAway
from server.storage.local import Storage
from server.storage.tier import AWAY, Tier, is_by_name, unit_of

logger = structlog.get_logger(__name__)

SECONDS_UNUSED = 3600


@dataclass
class _Copy:
    """A file that is asked for by its name, or the files of a folder."""

    files: list[Path] = field(default_factory=list)
    size: int = 0
    used_at: float = 0.0

    def add(self, path: Path) -> None:
        status = path.stat()
        self.files.append(path)
        self.size += status.st_size
        self.used_at = max(self.used_at, status.st_atime, status.st_mtime)


class LocalCopies:
    """The copies in one data folder."""

    def __init__(self, engine: sa.Engine, storage: Storage, limit_bytes: int, clock: Callable[[], datetime]) -> None:
        self._engine, self._storage, self._limit, self._clock = engine, storage, limit_bytes, clock

    def trim(self) -> int:
        """Delete copies until the limit is kept; returns the bytes that went. StorageAway."""
        tier = self._storage.tier
        if tier is None:
            return 0
        copies = _copies(tier)
        excess = sum(copy.size for copy in copies.values()) - self._limit
        if excess <= 0:
            return 0
        busy, oldest, num_bytes = self._busy(), self._clock().timestamp() - SECONDS_UNUSED, 0
        for place, copy in sorted(copies.items(), key=lambda each: each[1].used_at):
            if num_bytes >= excess or copy.used_at > oldest:
                break
            if place.split("/")[1] not in busy and _delete(tier, place, copy):
                num_bytes += copy.size
        logger.info("copies of files in the object storage deleted here", num_bytes=num_bytes)
        return num_bytes

    def _busy(self) -> set[str]:
        """Ids of the jobs that have not ended, and of the datasets that they or a check need."""
        is_open = col(Job.status).not_in(TERMINAL_STATUSES)
        is_new = col(Dataset.status).in_((DatasetStatus.INGESTING, DatasetStatus.VALIDATING))
        with read_session(self._engine) as session:
            jobs = session.connection().execute(sa.select(col(Job.id), col(Job.dataset_id)).where(is_open)).all()
            datasets = session.connection().execute(sa.select(col(Dataset.id)).where(is_new)).scalars().all()
        return {an_id for row in jobs for an_id in row} | set(datasets)


def _copies(tier: Tier) -> dict[str, _Copy]:
    found: dict[str, _Copy] = defaultdict(_Copy)
    for path in tier.kept_files():
        key = tier.key_of(path)
        unit = unit_of(key)
        if unit is not None:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                found[key if is_by_name(unit) else unit].add(path)
    return found


def _delete(tier: Tier, place: str, copy: _Copy) -> bool:
    """Delete a copy of which the store has each byte; False, with nothing changed, otherwise."""
    try:
        if not all(tier.has(path) for path in copy.files):
            return False
        if copy.files == [tier.root / place]:
            copy.files[0].unlink()
        else:
            _replace_by_mark(tier.root, tier.root / place)
    except StorageAway:
        raise
    except OSError as error:  # deleted meanwhile, or on Windows in use
        logger.debug("copy not deleted here", place=place, reason=str(error))
        return False
    return True


def _replace_by_mark(root: Path, unit: Path) -> None:
    """Have an empty folder with the mark in place of a unit's: a reader sees all of its files, or the mark."""
    folder = root / "incoming" / uuid6.uuid7().hex
    empty, old = folder / "empty", folder / "old"
    try:
        empty.mkdir(parents=True)
        (empty / AWAY).touch()
        rename(unit, old)
        try:
            rename(empty, unit)
        except OSError:
            rename(old, unit)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
