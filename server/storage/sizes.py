"""Disk usage: the bytes that deleting a folder frees, and the bytes charged to each job's owner."""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col

from server.database.engine import read_session, write_session
from server.database.result_tables import StoredFileRow
from server.database.tables import Job
from server.storage.local import Storage

BLOCK = 512
_BATCH = 200
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _File:
    length: int
    """Size in bytes."""
    blocks_bytes: int
    """Bytes allocated on disk."""
    links: int
    """Number of hard links, anywhere."""
    seen: int
    """Number of hard links found in the folders."""


def size_of(*folders: Path) -> int:
    """Bytes that deleting these folders frees: files with hard links elsewhere free none."""
    return sum(file.blocks_bytes for file in _files(*folders) if file.seen >= file.links)


def share_of(folder: Path, leave_out: AbstractSet[Path] = frozenset()) -> int:
    """Bytes charged to a folder (lengths of files, not blocks): a file with several hard links is divided among them.

    `leave_out`: files that do not count.
    """
    return round(sum(file.length * file.seen / file.links for file in _files(folder, leave_out=leave_out)))


def _files(*roots: Path, leave_out: AbstractSet[Path] = frozenset()) -> Iterator[_File]:
    found: dict[tuple[int, int], os.stat_result] = {}
    seen: dict[tuple[int, int], int] = defaultdict(int)
    for parent, _, names in itertools.chain.from_iterable(map(os.walk, roots)):
        for path in {Path(parent, name) for name in names} - leave_out:
            try:
                file = path.lstat()
            except FileNotFoundError:
                continue
            key = (file.st_dev, file.st_ino)
            seen[key] += 1
            found[key] = file
    for key, file in found.items():
        yield _File(file.st_size, file.st_blocks * BLOCK, file.st_nlink, seen[key])


class JobSizes:
    """Periodic measurement of jobs' files without rows of their own: workspaces, checkpoints, logs."""

    def __init__(self, engine: sa.Engine, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._engine, self._storage, self._clock = engine, storage, clock

    def measure(self) -> int:
        """Measure unfinished jobs, and finished ones once more; returns the number measured."""
        jobs = self._due()
        for start in range(0, len(jobs), _BATCH):
            now = self._clock()  # before measuring: a job that ends meanwhile is measured again
            sizes = self._measure(jobs[start : start + _BATCH])
            with write_session(self._engine) as session:
                _write(session, sizes, now)
        return len(jobs)

    def _due(self) -> list[str]:
        """Unfinished jobs, finished ones not measured since, and jobs that may share checkpoints with one of them.

        The latter are all jobs on the same dataset: jobs between two that share a file may be deleted.
        """
        is_final = col(StoredFileRow.created_at) >= col(Job.finished_at)
        is_due = sa.or_(col(StoredFileRow.path).is_(None), col(Job.finished_at).is_(None), ~is_final)
        measured = col(StoredFileRow.path) == sa.literal("jobs/") + col(Job.id)
        due = sa.select(col(Job.id)).outerjoin(StoredFileRow, measured).where(is_due)
        retried = sa.select(col(Job.dataset_id)).outerjoin(StoredFileRow, measured)
        retried = retried.where(is_due, col(Job.retry_of).is_not(None))
        related = sa.select(col(Job.id)).where(col(Job.dataset_id).in_(retried))
        with read_session(self._engine) as session:
            return sorted(session.connection().execute(sa.union(due, related)).scalars())

    def _measure(self, job_ids: Collection[str]) -> dict[str, int]:
        """Bytes of each job's files that have no row. A file published meanwhile counts twice until the next time."""
        with read_session(self._engine) as session:
            query = (
                sa.select(col(StoredFileRow.path))
                .join(Job, col(Job.number) == col(StoredFileRow.job_number))
                .where(col(Job.id).in_(job_ids), col(StoredFileRow.sha256).is_not(None))
            )
            counted = {self._storage.root / path for path in session.connection().execute(query).scalars()}
        return {job_id: share_of(self._storage.job_home(job_id), counted) for job_id in job_ids}

    def invalidate(self, job_id: str) -> None:
        """Have a job measured again after files of it were deleted."""
        with write_session(self._engine) as session:
            measure_again(session, col(Job.id) == job_id)


def measure_again(session: Session, condition: sa.ColumnElement[bool]) -> None:
    """Have the jobs that meet a condition measured again; until then their last sizes count."""
    numbers = sa.select(col(Job.number)).where(condition)
    measured = (col(StoredFileRow.job_number).in_(numbers), col(StoredFileRow.sha256).is_(None))
    session.execute(sa.update(StoredFileRow).where(*measured).values(created_at=_NEVER))


def _write(session: Session, sizes: dict[str, int], now: datetime) -> None:
    """Write the sizes, except of jobs deleted meanwhile."""
    query = sa.select(col(Job.id), col(Job.number), col(Job.owner)).where(col(Job.id).in_(sizes))
    query = query.order_by(col(Job.number)).with_for_update(read=True, key_share=True)  # not deleted before the commit
    for an_id, number, owner in session.connection().execute(query).all():
        assert number is not None  # noqa: S101 - a primary key
        session.merge(
            StoredFileRow(
                path=f"jobs/{an_id}", owner=owner, job_number=number, bytes=sizes[an_id], sha256=None, created_at=now
            )
        )
