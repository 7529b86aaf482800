"""Places in the queue, at nearly the same cost however long the queue is.

The place of a job is a bound: it is no later than that, with the jobs that are queued now. All jobs of higher priority
may run before it, the earlier ones of its owner, and of other owners' jobs of its priority those that fair shares may
let go first: see `server.scheduling.queue`.
"""

import bisect
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Job
from server.scheduling.queue import IS_QUEUED, QUEUE_ORDER
from server.scheduling.shares import gpu_seconds

NUM_EXACT = 500
"""Length up to which the queue is read at each look. A longer one is as of the last snapshot."""
MIN_SNAPSHOT_SECONDS = 2.0
SNAPSHOT_SHARE = 0.02
"""Largest share of the time that is spent on snapshots: with 100,000 queued jobs they are some seconds old."""
_QUEUE = sa.select(col(Job.priority), col(Job.owner), col(Job.number)).where(IS_QUEUED).order_by(*QUEUE_ORDER)
_HEAD = _QUEUE.limit(NUM_EXACT)
_IS_LONG = sa.select(col(Job.number)).where(IS_QUEUED).order_by(*QUEUE_ORDER).limit(1).offset(NUM_EXACT - 1)
"""Statement for one row of a queue of at least `NUM_EXACT` jobs: reading the head takes ten times as long."""


class Waiting(NamedTuple):
    """A job that waits, or one that is submitted now."""

    number: int
    owner: str
    priority: int
    needs: str


@dataclass(frozen=True)
class QueueView:
    """The queue at one moment."""

    numbers: Mapping[int, Mapping[str, Sequence[int]]]
    """Numbers of the jobs by priority and owner, each in order."""
    gpu_seconds: Mapping[str, float]
    """Running and recent GPU time of the owners."""
    totals: Mapping[int, int] = field(init=False)
    """Number of jobs by priority."""

    def __post_init__(self) -> None:
        """Count the jobs."""
        totals = {priority: sum(map(len, owners.values())) for priority, owners in self.numbers.items()}
        object.__setattr__(self, "totals", totals)

    def places(self, jobs: Sequence[Job | sa.Row[Any]]) -> dict[int | None, int]:
        """Places by the jobs' numbers, 1 for the first; none for jobs that are not queued."""
        return {job.number: self.place(waiting(job)) for job in jobs if job.status == JobStatus.QUEUED}

    def place(self, job: Waiting) -> int:
        """Last place that a job can have."""
        higher = sum(number for priority, number in self.totals.items() if priority > job.priority)
        own = self.num_own_before(job)
        if own == 0:
            others = sum(number for _, number in self._others_before_first(job))
        else:
            of_owner = self.numbers.get(job.priority, {}).get(job.owner, ())
            others = self.totals.get(job.priority, 0) - len(of_owner)
        return higher + others + own + 1

    def num_own_before(self, job: Waiting) -> int:
        """Number of its owner's jobs of the same priority that run before it."""
        return bisect.bisect_left(self.numbers.get(job.priority, {}).get(job.owner, ()), job.number)

    def own_before(self, job: Waiting) -> Sequence[int]:
        """These jobs, in order."""
        return self.numbers.get(job.priority, {}).get(job.owner, ())[: self.num_own_before(job)]

    def higher(self, priority: int) -> list[int]:
        """Jobs of higher priority."""
        found: list[int] = []
        for each in sorted((each for each in self.numbers if each > priority), reverse=True):
            found.extend(sorted(number for numbers in self.numbers[each].values() for number in numbers))
        return found

    def others(self, job: Waiting) -> list[int]:
        """Jobs of the same priority and other owners."""
        owners = self.numbers.get(job.priority, {})
        return sorted(number for owner, numbers in owners.items() if owner != job.owner for number in numbers)

    def others_before_first(self, job: Waiting) -> list[int]:
        """Jobs of the same priority and other owners that may run before the first job of an owner."""
        owners = self.numbers.get(job.priority, {})
        return sorted(n for owner, most in self._others_before_first(job) for n in owners[owner][:most])

    def _others_before_first(self, job: Waiting) -> Iterable[tuple[str, int]]:
        """Owners with less GPU time, and all their jobs; of one with the same time a single older job."""
        of_owner = self.gpu_seconds.get(job.owner)
        for owner, numbers in self.numbers.get(job.priority, {}).items():
            if owner == job.owner:
                continue
            seconds = self.gpu_seconds.get(owner, 0.0)
            if of_owner is None or seconds < of_owner:
                yield owner, len(numbers)
            elif seconds == of_owner and numbers[0] < job.number:
                yield owner, 1


def waiting(job: Job | sa.Row[Any]) -> Waiting:
    """A job's place in the order."""
    return Waiting(job.number or 0, job.owner, job.priority, job.needs)


class QueuePlaces:
    """The queue as it is, or as it was a short while ago. Callable from any thread."""

    def __init__(self) -> None:
        self._snapshot = QueueView({}, {})
        self._stale_at = 0.0

    def view(self, session: Session, now: datetime) -> QueueView:
        """The queue."""
        connection, began = session.connection(), time.monotonic()
        if began < self._stale_at and connection.execute(_IS_LONG).first() is not None:
            return self._snapshot
        head = connection.execute(_HEAD).all()
        if len(head) < NUM_EXACT:
            return _view(session, head, now)
        if began >= self._stale_at:  # two threads may take a snapshot at once
            self._snapshot = _view(session, connection.execute(_QUEUE), now)
            ended = time.monotonic()
            self._stale_at = ended + max(MIN_SNAPSHOT_SECONDS, (ended - began) / SNAPSHOT_SHARE)
        return self._snapshot


def _view(session: Session, rows: Iterable[Any], now: datetime) -> QueueView:
    numbers: dict[int, dict[str, array[int]]] = {}
    for priority, owner, number in rows:
        numbers.setdefault(priority, {}).setdefault(owner, array("q")).append(number)
    owners = {owner for of_priority in numbers.values() for owner in of_priority}
    return QueueView(numbers, gpu_seconds(session, owners, now))
