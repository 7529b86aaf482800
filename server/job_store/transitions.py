"""Applies state transitions and appends events, inside the caller's transaction."""

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from server.database.tables import Attempt, Event, Job, Metric
from server.errors import Conflict, LeaseLost
from server.job_store.events import NewEvent
from server.job_store.states import may_follow
from server.webhooks.service import enqueue_deliveries

S = JobStatus


class Transitions:
    """Writes in the caller's transaction. Only `server.jobs.service.JobService` has one."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        """`clock` gives the present time, with its zone."""
        self._clock = clock

    def transition(
        self, session: Session, job: Job, to: JobStatus, event: NewEvent, *, outcome: str | None = None, **columns: Any
    ) -> None:
        """The one way from a status to another: the event, the row, the end of the attempt. Conflict if not allowed."""
        before = JobStatus(job.status)
        if not may_follow(before, to):
            raise Conflict(f"the job is {before}; it cannot become {to}")
        self.append_events(session, job, event)
        now = self._clock()
        columns["status"] = to
        if to is S.QUEUED:
            columns["queued_at"] = now
        if to.is_terminal:
            columns["finished_at"] = now
        if before in LEASED_STATUSES and to not in LEASED_STATUSES:
            columns |= {"worker_id": None, "eta_seconds": columns.get("eta_seconds")}
            ended = (col(Attempt.job_number) == job.number, col(Attempt.token) == job.token)
            values = {"ended_at": now, "outcome": outcome or str(to), "message": event.message}
            session.execute(sa.update(Attempt).where(*ended).values(**values))
        unchanged = (col(Job.number) == job.number, col(Job.token) == job.token, col(Job.status) == before)
        moved = session.connection().execute(sa.update(Job).where(*unchanged).values(**columns))
        if moved.rowcount != 1:
            raise LeaseLost(f"the job {job.id} changed at the same time")
        session.refresh(job)
        enqueue_deliveries(session, job, event.type, now)

    def append_events(self, session: Session, job: Job, *events: NewEvent) -> None:
        """Append events; their numbers come from this very transaction, so no follower skips one."""
        if not events:
            return
        statement = (
            sa.update(Job)
            .where(col(Job.number) == job.number)
            .values(last_seq=Job.last_seq + len(events))
            .returning(col(Job.last_seq))
            .execution_options(synchronize_session=False)
        )
        first = session.execute(statement).scalar_one() - len(events) + 1
        now = self._clock()
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
        session.connection().execute(sa.insert(Event), rows)

    def fail(self, session: Session, job: Job, code: FailureCode, message: str, **columns: Any) -> None:
        """Fail the job for good."""
        data = {"code": str(code), "retryable": code.retryable}
        columns |= {"error_code": str(code), "error_message": message}
        self.transition(session, job, S.FAILED, NewEvent(EventType.FAILED, message, data, "error"), **columns)


def upsert_metrics(session: Session, number: int, metrics: dict[tuple[str, int], float | None]) -> None:
    """Write numbers by (key, step); a step done again replaces its own."""
    if not metrics:
        return
    rows = [{"job_number": number, "key": key, "step": step, "value": value} for (key, step), value in metrics.items()]
    session.connection().execute(_upsert_of_metrics(session.get_bind().dialect.name), rows)


@functools.cache
def _upsert_of_metrics(dialect: str) -> sa.Executable:
    """Made once: a worker writes metrics twice a second, and making the statement takes longer than running it."""
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    statement: Any = insert(Metric)
    upsert: sa.Executable = statement.on_conflict_do_update(
        index_elements=["job_number", "key", "step"], set_={"value": statement.excluded.value}
    )
    return upsert
