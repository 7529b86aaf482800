"""Orphans: files in the data folder without a row, left by a crash between writing a file and its row.

They are searched every few minutes, never at the start, and only while folder and database have the same instance id.
Those unchanged for an hour are moved to the trash, from which they are deleted some days later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Dataset, Job, Upload
from server.storage.instances import is_joined
from server.storage.local import Storage
from server.storage.sizes import size_of
from server.storage.trash import SECONDS_UNTOUCHED, Trash, TrashEntry, is_untouched

logger = structlog.get_logger(__name__)

SCAN_SECONDS = 600.0
KINDS = ("datasets", "cache", "jobs", "uploads", "incoming")


@dataclass(frozen=True)
class Orphan:
    """A file or folder without a row."""

    kind: str
    path: Path
    is_due: bool
    """Whether it has been unchanged long enough to be moved to the trash."""

    @property
    def size(self) -> int:
        """Bytes that deleting it frees."""
        return size_of(self.path) if self.path.is_dir() else self.path.stat().st_size


class Orphans:
    """Search and removal of orphans in one data folder."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        trash_days: float,
        report_timeout_seconds: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`trash_days`: time in the trash before deletion; `report_timeout_seconds`: limit of a dataset's report."""
        self._engine, self._storage, self._clock = engine, storage, clock
        self._trash_days = trash_days
        self._trash = Trash(storage.root, clock)
        # A report has its folder in `incoming`, and may write nothing until it ends.
        self._seconds = dict.fromkeys(KINDS, float(SECONDS_UNTOUCHED)) | {
            "incoming": SECONDS_UNTOUCHED + report_timeout_seconds
        }

    def find(self) -> list[Orphan]:
        """All orphans. Changes nothing."""
        # Files before rows: a file whose row is inserted in between is not an orphan.
        entries = [(kind, path) for kind in KINDS for path in self._storage.entries(kind)]
        ids = self._ids_with_rows()
        now = self._clock()
        return [
            Orphan(kind, path, is_untouched(path, now, self._seconds[kind]))
            for kind, path in entries
            if path.name not in ids[kind]
        ]

    def overdue(self) -> list[TrashEntry]:
        """Entries of the trash that are due for deletion."""
        return self._trash.overdue(self._trash_days)

    def collect(self) -> list[Orphan]:
        """Move orphans that are due to the trash, and delete its overdue entries; returns the orphans moved."""
        if not is_joined(self._engine, self._storage):
            logger.error("no orphans collected: data folder and database no longer belong together")
            return []
        moved = [orphan for orphan in self.find() if orphan.is_due and self._trash.add(orphan.path, orphan.kind)]
        self._trash.empty(self._trash_days)
        return moved

    def _ids_with_rows(self) -> dict[str, set[str]]:
        with read_session(self._engine) as session:
            datasets = set(session.exec(select(Dataset.id).where(col(Dataset.deleted_at).is_(None))).all())
            jobs = set(session.exec(select(Job.id)).all())
            uploads = set(session.exec(select(Upload.id)).all())
        return {"datasets": datasets, "cache": datasets, "jobs": jobs, "uploads": uploads, "incoming": set()}
