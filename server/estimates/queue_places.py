"""Places in the queue, at nearly the same cost however long the queue is."""

import bisect
import itertools
import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Job
from server.job_store.leases import IS_QUEUED, QUEUE_ORDER

NUM_EXACT = 500
"""First places, read at each look. Those behind them are as of the last snapshot."""
MIN_SNAPSHOT_SECONDS = 2.0
SNAPSHOT_SHARE = 0.02
"""Largest share of the time that is spent on snapshots: with 100,000 queued jobs they are some seconds old."""


class QueuePlaces:
    """Places of queued jobs. Callable from any thread."""

    def __init__(self) -> None:
        self._numbers: dict[int, array[int]] = {}
        """Snapshot of the queue: the jobs' numbers by priority, each in order."""
        self._stale_at = 0.0

    def of(self, session: Session, jobs: Sequence[Job | sa.Row[Any]]) -> dict[int | None, int]:
        """Places by the jobs' numbers, 1 for the first; none for jobs that are not queued."""
        queued = [job for job in jobs if job.status == JobStatus.QUEUED]
        if not queued:
            return {}
        query = sa.select(col(Job.number)).where(IS_QUEUED).order_by(*QUEUE_ORDER).limit(NUM_EXACT)
        head = session.connection().execute(query).scalars().all()
        places: dict[int | None, int] = {number: place for place, number in enumerate(head, 1)}
        if any(job.number not in places for job in queued):
            self._refresh(session)
        return {job.number: places.get(job.number) or max(len(head) + 1, self._place(job)) for job in queued}

    def _refresh(self, session: Session) -> None:
        """Take a snapshot, if the last one is too old; two threads may do so at once."""
        began = time.monotonic()
        if began < self._stale_at:
            return
        query = sa.select(col(Job.priority), col(Job.number)).where(IS_QUEUED).order_by(*QUEUE_ORDER)
        rows: Iterable[Any] = session.connection().execute(query)
        by_priority = itertools.groupby(rows, key=lambda row: row[0])
        self._numbers = {priority: array("q", (row[1] for row in same)) for priority, same in by_priority}
        now = time.monotonic()
        self._stale_at = now + max(MIN_SNAPSHOT_SECONDS, (now - began) / SNAPSHOT_SHARE)

    def _place(self, job: Job | sa.Row[Any]) -> int:
        before = sum(len(numbers) for priority, numbers in self._numbers.items() if priority > job.priority)
        return before + bisect.bisect_left(self._numbers.get(job.priority, array("q")), job.number or 0) + 1
