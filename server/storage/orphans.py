"""Orphans: files in the data folder without a row, left by a crash between writing a file and its row.

In the folder of a job with a row these are files of attempts that have ended: published ones that no artifact and no
preview refers to, unfinished and superseded copies of checkpoints, and events that were not recorded.

They are searched every few minutes, never at the start, and only while folder and database have the same instance id.
Those unchanged for an hour are moved to the trash, from which they are deleted some days later.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from rvc_engine.checkpoints.manifest import read_entries
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_train.schemas.jobs import LEASED_STATUSES
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.result_tables import StoredFileRow
from server.database.tables import BaseWeights, Conversion, Dataset, Job, Upload
from server.storage.instances import is_joined
from server.storage.local import ATTEMPTS, Storage
from server.storage.sizes import JobSizes, size_of
from server.storage.tier import AWAY, KEPT
from server.storage.trash import SECONDS_UNTOUCHED, Trash, TrashEntry, is_untouched

logger = structlog.get_logger(__name__)

SCAN_SECONDS = 600.0
KINDS = ("datasets", "consents", "fetched", "cache", "jobs", "base-weights", "conversions", "uploads", "incoming")


@dataclass(frozen=True)
class Orphan:
    """A file or folder without a row."""

    kind: str
    """Its folder, relative to the data folder: one of `KINDS`, or a folder of an attempt."""
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
        files = [found for kind, path in entries if kind == "jobs" for found in self._attempt_files(path.name)]
        ids = self._ids_with_rows()
        kept = self._kept_files()
        now = self._clock()
        found = [(kind, path) for kind, path in entries if path.name not in ids[kind]]
        for job_id, token, path in files:
            name = path.relative_to(self._storage.root)
            if job_id in ids["jobs"] and (job_id, token) not in kept and name.as_posix() not in kept:
                found.append((name.parent.as_posix(), path))
        return [
            Orphan(kind, path, is_untouched(path, now, self._seconds.get(kind, SECONDS_UNTOUCHED)))
            for kind, path in found
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
        sizes = JobSizes(self._engine, self._storage, self._clock)
        for job_id in {orphan.kind.split("/")[1] for orphan in moved if orphan.kind not in KINDS}:
            sizes.invalidate(job_id)
        self._trash.empty(self._trash_days)
        self._collect_kept()
        return moved

    def _collect_kept(self) -> None:
        """Delete from the store what has had no row for as long as files lie in the trash. StorageAway."""
        tier, oldest = self._storage.tier, self._clock() - timedelta(days=self._trash_days)
        if tier is None:
            return
        found = {kind: tier.blobs.names(kind) for kind in KEPT}
        ids = self._ids_with_rows()
        for kind, names in found.items():
            for name in names - ids[kind]:
                if all(blob.modified_at < oldest for blob in tier.blobs.list(f"{kind}/{name}")):
                    tier.blobs.delete(f"{kind}/{name}")
                    logger.info("orphan deleted from the object storage", key=f"{kind}/{name}")

    def _attempt_files(self, job_id: str) -> list[tuple[str, int, Path]]:
        """Files of a job's attempts, with job and token: orphans, unless a row or a running attempt keeps them."""
        try:
            published = self._storage.artifact_folders(job_id)
            files = [(token, path) for token, folder in published.items() for path in folder.iterdir()]
            files += _superseded(self._storage.checkpoint_folders(job_id))
            spools = (self._storage.job_home(job_id) / ATTEMPTS).glob("[0-9]*/*.spool")
            files += [(int(path.parent.name), path) for path in spools]
        except FileNotFoundError:  # its files are being deleted
            return []
        return [(job_id, token, path) for token, path in files]

    def _kept_files(self) -> set[str | tuple[str, int]]:
        """Running attempts, as job and token, and paths of stored files."""
        with read_session(self._engine) as session:  # an attempt that has ended publishes nothing more
            running = set(session.exec(select(Job.id, Job.token).where(col(Job.status).in_(LEASED_STATUSES))).all())
        with read_session(self._engine) as session:
            return running | set(session.exec(select(StoredFileRow.path)).all())

    def _ids_with_rows(self) -> dict[str, set[str]]:
        with read_session(self._engine) as session:
            datasets = set(session.exec(select(Dataset.id).where(col(Dataset.deleted_at).is_(None))).all())
            jobs = set(session.exec(select(Job.id)).all())
            uploads = set(session.exec(select(Upload.id)).all())
            base = set(session.exec(select(BaseWeights.id)).all())
            conversions = set(session.exec(select(Conversion.id)).all())
        found = dict.fromkeys(("datasets", "consents", "fetched", "cache"), datasets) | {
            "jobs": jobs,
            "uploads": uploads,
        }
        return found | {"base-weights": base, "conversions": conversions, "incoming": set()}


def _superseded(folders: Mapping[int, Path]) -> Iterator[tuple[int, Path]]:
    """Files of copied checkpoints, with their token, that no attempt continues from: unfinished and superseded ones."""
    is_superseded = False
    for token, folder in sorted(folders.items(), reverse=True):
        try:
            entries = read_entries(folder)
        except IncompatibleCheckpoint:  # left to the administrator, whom the next attempt's failure informs
            return
        named = {entry.file for entry in entries}
        for path in folder.iterdir():
            is_unfinished = path.name.startswith((".", "step_")) and path.name not in named
            if path.name != AWAY and (is_superseded or is_unfinished or not entries):
                yield token, path
        is_superseded = is_superseded or bool(entries)
