"""Files in the data folder that belong to no row: what a crash left between a file's arrival and its row.

They are looked for every few minutes, never at the start, and only while folder and database have the same instance id.
Those that nobody has changed for an hour go to the trash, and are deleted when they have been there for some days.
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
    """One thing that belongs to no row."""

    kind: str
    path: Path
    is_due: bool
    """Whether it has been unchanged for so long that it goes to the trash at the next look."""

    @property
    def size(self) -> int:
        """Bytes that deleting it would free."""
        return size_of(self.path) if self.path.is_dir() else self.path.stat().st_size


class Orphans:
    """Those of one data folder."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        trash_days: float,
        report_timeout_seconds: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`trash_days`: how long the trash keeps things; `report_timeout_seconds`: of a report on a dataset."""
        self._engine, self._storage, self._clock = engine, storage, clock
        self._trash_days = trash_days
        self._trash = Trash(storage.root, clock)
        # A report works in `incoming`, and may write nothing until its end.
        self._seconds = dict.fromkeys(KINDS, float(SECONDS_UNTOUCHED)) | {
            "incoming": SECONDS_UNTOUCHED + report_timeout_seconds
        }

    def find(self) -> list[Orphan]:
        """All of them. Changes nothing."""
        # The files first: what gets its row between the two looks is no orphan.
        entries = [(kind, path) for kind in KINDS for path in self._storage.entries(kind)]
        ids = self._ids_with_rows()
        now = self._clock()
        return [
            Orphan(kind, path, is_untouched(path, now, self._seconds[kind]))
            for kind, path in entries
            if path.name not in ids[kind]
        ]

    def overdue(self) -> list[TrashEntry]:
        """What the trash has kept for long enough."""
        return self._trash.overdue(self._trash_days)

    def collect(self) -> list[Orphan]:
        """Move those that are due to the trash, and delete what it has kept for long enough; which were moved."""
        if not is_joined(self._engine, self._storage):
            logger.error("files are left alone: data folder and database do not belong together any more")
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
