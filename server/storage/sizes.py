"""Disk usage: the bytes that deleting a folder frees, and the bytes charged to each job's owner."""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from server.database.base import UtcDateTime
from server.database.engine import read_session, write_session
from server.database.result_tables import StoredFileRow
from server.database.tables import Job
from server.storage.local import Storage
from server.storage.tier import Tier

BLOCK = 512
_BATCH = 200
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
IS_DUE = sa.and_(
    col(StoredFileRow.sha256).is_(None),
    col(StoredFileRow.created_at) == sa.literal(_NEVER, UtcDateTime, literal_execute=True),
)
"""Condition of the rows of jobs whose files are to be measured: a constant, as the partial index needs."""


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
        yield _File(file.st_size, _allocated(file), file.st_nlink, seen[key])


def _allocated(file: os.stat_result) -> int:
    """Bytes of a file's blocks on disk; its length on Windows, which does not count blocks."""
    blocks: int | None = getattr(file, "st_blocks", None)
    return file.st_size if blocks is None else blocks * BLOCK


class JobSizes:
    """Periodic measurement of jobs' files without rows of their own: workspaces, checkpoints, logs."""

    def __init__(self, engine: sa.Engine, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._engine, self._storage, self._clock = engine, storage, clock

    def measure(self) -> int:
        """Measure the jobs that are due; returns their number. Running jobs are always due, others after a change."""
        jobs = self._due()
        ids = sorted(jobs)
        for start in range(0, len(ids), _BATCH):
            now = self._clock()
            sizes = self._measure(ids[start : start + _BATCH])
            with write_session(self._engine) as session:
                _write(session, sizes, jobs, now)
        return len(jobs)

    def _due(self) -> dict[str, int]:
        """Ids of the jobs that are due, with their tokens; and of jobs that may share checkpoints with one of them.

        The latter are, for a retry that is not running, all jobs on the same dataset that have files: jobs between two
        that share a file may be deleted.
        """
        measured = col(StoredFileRow.job_number) == col(Job.number)
        query = sa.select(col(Job.id), col(Job.token)).join(StoredFileRow, measured)
        retried = sa.select(col(Job.dataset_id)).join(StoredFileRow, measured)
        retried = retried.where(IS_DUE, col(Job.retry_of).is_not(None), col(Job.worker_id).is_(None))
        has_files = (col(StoredFileRow.sha256).is_(None), col(StoredFileRow.bytes) > 0)
        with read_session(self._engine) as session:
            due = session.connection().execute(query.where(IS_DUE)).all()
            datasets = set(session.connection().execute(retried).scalars())
            if datasets:
                related = query.where(*has_files, col(Job.dataset_id).in_(datasets))
                due = [*due, *session.connection().execute(related).all()]
        return {row[0]: row[1] for row in due}

    def _measure(self, job_ids: Collection[str]) -> dict[str, int]:
        """Bytes of each job's files that have no row. A file published meanwhile counts twice until the next time."""
        with read_session(self._engine) as session:
            query = (
                sa.select(col(StoredFileRow.path))
                .join(Job, col(Job.number) == col(StoredFileRow.job_number))
                .where(col(Job.id).in_(job_ids), col(StoredFileRow.sha256).is_not(None))
            )
            paths = set(session.connection().execute(query).scalars())
        if self._storage.tier is not None:
            return {job_id: self._kept_size(self._storage.tier, job_id, paths) for job_id in job_ids}
        counted = {self._storage.root / path for path in paths}
        return {job_id: share_of(self._storage.job_home(job_id), counted) for job_id in job_ids}

    def _kept_size(self, tier: Tier, job_id: str, counted: AbstractSet[str]) -> int:
        """Bytes of a job's workspace, and of its files in the store, of which there may be no copy here."""
        kept = sum(blob.size for blob in tier.blobs.list(f"jobs/{job_id}") if blob.key not in counted)
        return kept + share_of(self._storage.workspace(job_id))

    def invalidate(self, job_id: str) -> None:
        """Have a job measured again after files of it were deleted."""
        with write_session(self._engine) as session:
            job = session.execute(sa.select(Job).where(col(Job.id) == job_id)).scalar_one_or_none()
            if job is not None:
                measure_again(session, job)


def measure_again(session: Session, job: Job) -> None:
    """Have a job's files measured; until then their last size counts. For the transaction that changes the job."""
    insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    row = {"path": f"jobs/{job.id}", "owner": job.owner, "job_number": job.number, "bytes": 0, "created_at": _NEVER}
    statement = insert(StoredFileRow).values(**row)
    due = {"created_at": statement.excluded.created_at}
    session.connection().execute(statement.on_conflict_do_update(index_elements=["path"], set_=due))


def measure_relatives_again(session: Session, job: Job) -> None:
    """Have the jobs measured with which a job that is deleted may have shared checkpoints: theirs alone now."""
    on_dataset = col(Job.dataset_id) == job.dataset_id
    is_shared = sa.select(sa.exists().where(on_dataset, col(Job.retry_of).is_not(None)))
    if session.execute(is_shared).scalar_one():
        related = col(StoredFileRow.job_number).in_(sa.select(col(Job.number)).where(on_dataset))
        has_files = (col(StoredFileRow.sha256).is_(None), col(StoredFileRow.bytes) > 0)
        session.execute(sa.update(StoredFileRow).where(related, *has_files).values(created_at=_NEVER))


def _write(session: Session, sizes: dict[str, int], tokens: Mapping[str, int], now: datetime) -> None:
    """Write the sizes, except of jobs deleted meanwhile. Those of a job that runs, or has run meanwhile, stay due."""
    query = sa.select(Job).where(col(Job.id).in_(sizes))
    query = query.order_by(col(Job.number)).with_for_update(read=True, key_share=True)  # not deleted before the commit
    for job in session.execute(query).scalars():
        is_final = job.worker_id is None and job.token == tokens[job.id]
        values = {"bytes": sizes[job.id], "created_at": now if is_final else _NEVER}
        session.execute(sa.update(StoredFileRow).where(col(StoredFileRow.path) == f"jobs/{job.id}").values(**values))
