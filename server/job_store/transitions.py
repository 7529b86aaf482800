"""The transition table, and the writes that obey it: changes of status and events, inside the caller's transaction.

A committed success wins over a cancel. In `pausing`, a lost worker, a drain or a retryable failure gives `paused`; in
`cancelling`, every end but success gives `cancelled`. An admin's force-fail goes from any state that is not terminal.
"""

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from server.auth.quotas import record_spent_hours
from server.database.clock import utc_now
from server.database.derived_tables import UnthinnedJob
from server.database.tables import Attempt, Event, EventCounter, Job, Metric, Worker
from server.errors import Conflict, LeaseLost
from server.job_store.events import NewEvent
from server.scheduling.resources import gpus_of
from server.scheduling.shares import add_gpu_seconds
from server.storage.sizes import measure_again
from server.webhooks.service import enqueue_deliveries

S = JobStatus

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    S.VALIDATING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.PAUSED, S.CANCELLED, S.FAILED}),
    S.RUNNING: frozenset({S.SUCCEEDED, S.FAILED, S.QUEUED, S.CANCELLING, S.PAUSING}),
    S.PAUSING: frozenset({S.PAUSED, S.SUCCEEDED, S.CANCELLING, S.FAILED}),
    S.PAUSED: frozenset({S.QUEUED, S.CANCELLED, S.FAILED}),
    S.CANCELLING: frozenset({S.CANCELLED, S.SUCCEEDED, S.FAILED}),
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
"""`paused -> failed` and `cancelling -> failed` happen only by an admin's force-fail."""
_POSITION = sa.select(col(EventCounter.position)).scalar_subquery()
_NEXT_POSITION = sa.update(EventCounter).values(position=col(EventCounter.position) + 1)
_INSERT_EVENTS = {
    "sqlite": sa.insert(Event).values(position=_POSITION),
    "postgresql": sa.insert(Event).values(position=_POSITION + sa.func.txid_current()),
}
"""By dialect; `server.jobs.event_feed` has the reasons."""
_COUNT_EVENTS = (
    sa.update(Job)
    .where(col(Job.number) == sa.bindparam("of_job"))
    .values(last_seq=Job.last_seq + sa.bindparam("num_events"))
    .returning(col(Job.last_seq))
)
"""Made once: a statement takes as long to make as to run."""

RUNNABLE_STATUSES = frozenset({S.VALIDATING, S.QUEUED, S.PAUSED}) | LEASED_STATUSES
"""Not terminal: the job still needs its dataset."""


class JobColumns(TypedDict, total=False):
    """Columns of a job that a transition may set, beside those that follow from the new status."""

    worker_id: str
    heartbeat: int
    progress: float
    eta_seconds: float | None
    not_before: datetime
    failures: int
    recoveries: int
    error_code: str
    error_message: str


class JobStore:
    """Job rows of one database. Used only by `server.jobs.service.JobService` and its parts."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime] = utc_now) -> None:
        """`clock` gives the present time, with its time zone."""
        self.engine = engine
        self.clock = clock

    def transition(
        self,
        session: Session,
        job: Job,
        to: JobStatus,
        event: NewEvent,
        *,
        events_before: Sequence[NewEvent] = (),
        outcome: str | None = None,
        **columns: Unpack[JobColumns],
    ) -> None:
        """Change the status: the event, the row, the end of the attempt, webhook messages.

        `events_before`: events of the same moment, which are numbered before it. `outcome`: that of the attempt, where
        it is not the new status. Raises Conflict when the table forbids the transition, LeaseLost when the row changed
        at the same time.
        """
        before = JobStatus(job.status)
        if to not in TRANSITIONS[before]:
            raise Conflict(f"the job is {before}; it cannot become {to}")
        self.append_events(session, job, *events_before, event)
        if before in LEASED_STATUSES and to not in LEASED_STATUSES:
            self._end_attempt(session, job, outcome or str(to), event.message)
        self._update_status(session, job, before, to, columns)
        enqueue_deliveries(session, job, event.type, self.clock())

    def insert_finished(self, session: Session, job: Job, *events: NewEvent) -> None:
        """Insert a job that has succeeded on another server, with these events: here it never was in another state."""
        job.status, job.progress, job.finished_at = S.SUCCEEDED, 1.0, self.clock()
        job.last_seq = len(events)  # a finished job does not change, so nothing is appended to it
        session.add(job)
        session.flush()
        self._insert_events(session, job, 1, events)

    def _end_attempt(self, session: Session, job: Job, outcome: str, message: str) -> None:
        now = self.clock()
        ended = (
            sa.update(Attempt)
            .where(col(Attempt.job_number) == job.number, col(Attempt.token) == job.token)
            .values(ended_at=now, outcome=outcome, message=message)
            .returning(col(Attempt.started_at), col(Attempt.worker_id))
            .execution_options(synchronize_session=False)
        )
        for started, worker_id in session.execute(ended).all():
            record_spent_hours(session, job.owner, started, now)
            num_gpus = gpus_of(session.get_one(Worker, worker_id))
            add_gpu_seconds(session, job.owner, (now - started).total_seconds() * max(1, num_gpus), now)
        measure_again(session, job)

    def _update_status(self, session: Session, job: Job, before: JobStatus, to: JobStatus, columns: JobColumns) -> None:
        values: dict[str, Any] = {"status": to}
        if to not in LEASED_STATUSES:
            values |= {"worker_id": None, "eta_seconds": None}
        if to is S.QUEUED:
            values["queued_at"] = self.clock()
        if to.is_terminal:
            values["finished_at"] = self.clock()
        unchanged = (col(Job.number) == job.number, col(Job.token) == job.token, col(Job.status) == before)
        updated = session.connection().execute(sa.update(Job).where(*unchanged).values(**{**values, **columns}))
        if updated.rowcount != 1:
            raise LeaseLost(f"the job {job.id} changed at the same time")
        session.refresh(job)
        if to.is_terminal:
            session.execute(sa.insert(UnthinnedJob).values(job_number=job.number))

    def append_events(self, session: Session, job: Job, *events: NewEvent) -> None:
        """Append events. Their numbers are assigned in the same transaction, so that no follower skips one."""
        if not events:
            return
        counted = session.connection().execute(_COUNT_EVENTS, {"of_job": job.number, "num_events": len(events)})
        first = counted.scalar_one() - len(events) + 1
        self._insert_events(session, job, first, events)

    def _insert_events(self, session: Session, job: Job, first: int, events: Sequence[NewEvent]) -> None:
        now = self.clock()
        rows = [
            {
                "job_number": job.number,
                "seq": first + i,
                "type": str(event.type),
                "level": event.level,
                "message": event.message,
                "data": event.data,
                "attempt": job.claims,
                "created_at": now,
            }
            for i, event in enumerate(events)
        ]
        dialect = session.get_bind().dialect.name
        if dialect == "sqlite":
            session.connection().execute(_NEXT_POSITION)
        session.connection().execute(_INSERT_EVENTS[dialect], rows)

    def fail(
        self,
        session: Session,
        job: Job,
        code: FailureCode,
        message: str,
        *,
        outcome: str | None = None,
        **columns: Unpack[JobColumns],
    ) -> None:
        """Change the status to failed, for good."""
        event = NewEvent(EventType.FAILED, message, {"code": str(code), "retryable": code.retryable}, "error")
        columns |= {"error_code": str(code), "error_message": message}
        self.transition(session, job, S.FAILED, event, outcome=outcome, **columns)


def upsert_metrics(session: Session, number: int, metrics: dict[tuple[str, int], float | None]) -> None:
    """Write values by (key, step); a step that is repeated replaces its earlier values."""
    if not metrics:
        return
    rows = [{"job_number": number, "key": key, "step": step, "value": value} for (key, step), value in metrics.items()]
    session.connection().execute(_metrics_upsert(session.get_bind().dialect.name), rows)


@functools.cache
def _metrics_upsert(dialect: str) -> sa.Executable:
    """Built once: a worker writes metrics twice a second, and building the statement takes longer than running it."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    statement: Any = insert(Metric)
    upsert: sa.Executable = statement.on_conflict_do_update(
        index_elements=["job_number", "key", "step"], set_={"value": statement.excluded.value}
    )
    return upsert
