"""Disk usage: the bytes that deleting a folder frees, and the bytes charged to each job."""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col

from server.database.engine import read_session, write_session
from server.database.tables import Job, JobSize
from server.storage.local import Storage

BLOCK = 512
ARTIFACTS = "artifacts"
"""Folder of a job's artifacts, which are counted by their rows."""
_BATCH = 200


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


def share_of(folder: Path, leave_out: str | None = None) -> int:
    """Bytes charged to a folder: a file with several hard links is divided among them.

    `leave_out`: name of a subfolder that does not count.
    """
    return round(sum(file.length * file.seen / file.links for file in _files(folder, leave_out=leave_out)))


def _files(*roots: Path, leave_out: str | None = None) -> Iterator[_File]:
    found: dict[tuple[int, int], os.stat_result] = {}
    seen: dict[tuple[int, int], int] = defaultdict(int)
    for parent, folders, names in itertools.chain.from_iterable(map(os.walk, roots)):
        if leave_out is not None and Path(parent) in roots and leave_out in folders:
            folders.remove(leave_out)
        for name in names:
            try:
                file = (Path(parent) / name).lstat()
            except FileNotFoundError:
                continue
            key = (file.st_dev, file.st_ino)
            seen[key] += 1
            found[key] = file
    for key, file in found.items():
        yield _File(file.st_size, file.st_blocks * BLOCK, file.st_nlink, seen[key])


class JobSizes:
    """Periodic measurement of jobs' workspaces, checkpoints, logs and previews."""

    def __init__(self, engine: sa.Engine, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._engine, self._storage, self._clock = engine, storage, clock

    def measure(self) -> int:
        """Measure unfinished jobs, and finished ones once more; returns the number measured."""
        with read_session(self._engine) as session:
            is_final = col(JobSize.measured_at) >= col(Job.finished_at)
            query = (
                sa.select(col(Job.number), col(Job.id))
                .outerjoin(JobSize, col(JobSize.job_number) == col(Job.number))
                .where(sa.or_(col(JobSize.job_number).is_(None), col(Job.finished_at).is_(None), ~is_final))
            )
            jobs = [(int(number), str(an_id)) for number, an_id in session.connection().execute(query) if number]
        for start in range(0, len(jobs), _BATCH):
            now = self._clock()  # before measuring: a job that ends meanwhile is measured again
            sizes = {
                number: share_of(self._storage.job_home(an_id), ARTIFACTS)
                for number, an_id in jobs[start : start + _BATCH]
            }
            with write_session(self._engine) as session:
                _write(session, sizes, now)
        return len(jobs)

    def invalidate(self, job_id: str) -> None:
        """Have a job measured again after files of it were deleted."""
        number = sa.select(col(Job.number)).where(col(Job.id) == job_id).scalar_subquery()
        with write_session(self._engine) as session:
            session.execute(sa.delete(JobSize).where(col(JobSize.job_number) == number))


def _write(session: Session, sizes: dict[int, int], now: datetime) -> None:
    """Write the sizes, except of jobs deleted meanwhile."""
    query = sa.select(col(Job.number)).where(col(Job.number).in_(sizes)).order_by(col(Job.number))
    query = query.with_for_update(read=True, key_share=True)  # not deleted before the sizes are committed
    present = set(session.connection().execute(query).scalars())
    for number in sizes.keys() & present:
        session.merge(JobSize(job_number=number, bytes=sizes[number], measured_at=now))
