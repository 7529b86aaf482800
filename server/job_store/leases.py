"""Leases: a worker's right to a job, the statement that claims one, and the conditions of every write under it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlmodel import col

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from rvc_train.schemas.workers import WorkerCommand
from server.database.base import UtcDateTime
from server.database.tables import Attempt, Job, Worker
from server.errors import LeaseLost
from server.scheduling.queue import IS_QUEUED, Group

S = JobStatus
LONGEST_RETRY_DELAY = timedelta(minutes=10)
CLOCK_SLACK = timedelta(minutes=1)
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""The time in `Job.not_before` where a job need not wait: due by every machine's clock."""
IS_LEASED: sa.ColumnElement[bool] = col(Job.worker_id).is_not(None)
"""As `status IN LEASED_STATUSES`, which a CHECK constraint guarantees; with an index."""


COMMANDS = {S.RUNNING: WorkerCommand.NONE, S.CANCELLING: WorkerCommand.CANCEL, S.PAUSING: WorkerCommand.PAUSE}


@dataclass(frozen=True)
class Lease:
    """A worker's right to one job, until the token is replaced."""

    job_id: str
    job_number: int
    token: int
    attempt: int
    """1 for the first."""
    worker_id: str
    voice: str
    """The voice's name."""
    dataset_id: str
    config: TrainingConfig
    max_duration_seconds: float | None
    step_seconds: float | None = None
    """Time of a training step in earlier attempts; None when it was not measured."""


@dataclass(frozen=True)
class EngineProcess:
    """Engine process of an earlier attempt; if still running, it is ended before a new one starts."""

    pid: int
    started_at: float
    """`psutil.Process.create_time`, in seconds since the epoch."""
    host: str


@dataclass(frozen=True)
class ActiveLease:
    """A lease with its heartbeat counter, for the reaper."""

    id: str
    """Id of the job or the conversion."""
    token: int
    heartbeat: int


def claim_statement(worker_id: str, now: datetime, of: Group | str) -> sa.Executable:
    """Statement that claims the oldest due job of a group, or a single one by its id, and returns its number."""
    may_claim = sa.exists().where(
        col(Worker.id) == worker_id, ~col(Worker.is_draining), col(Worker.stopped_at).is_(None)
    )
    # No job waits longer than the longest delay: a later time was written before the clock was set back.
    is_due = sa.or_(col(Job.not_before) <= now, col(Job.not_before) > now + LONGEST_RETRY_DELAY + CLOCK_SLACK)
    if isinstance(of, str):
        which = [col(Job.id) == of]
    else:
        which = [col(Job.needs) == of.needs, col(Job.priority) == of.priority, col(Job.owner) == of.owner]
        which.append(col(Job.number) >= of.first)  # whichever index is used, nothing before the group is read
    next_job = (
        sa.select(col(Job.number))
        .where(IS_QUEUED, *which, is_due, may_claim)
        .order_by(col(Job.number))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(Job)
        .where(col(Job.number) == next_job.scalar_subquery())
        .values(
            status=S.RUNNING,
            token=Job.token + 1,
            claims=Job.claims + 1,
            heartbeat=Job.heartbeat + 1,
            worker_id=worker_id,
            started_at=sa.func.coalesce(col(Job.started_at), sa.literal(now, UtcDateTime)),
        )
        .returning(col(Job.number))
        .execution_options(synchronize_session=False)
    )


def lease_is_valid(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions that every write of a worker ends with."""
    return (
        col(Job.id) == lease.job_id,
        col(Job.token) == lease.token,
        col(Job.status).in_(LEASED_STATUSES),
    )


def attempt_of(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions for the row of the attempt that runs under a lease."""
    return (col(Attempt.job_number) == lease.job_number, col(Attempt.token) == lease.token)


def lease_of(job: Job, worker_id: str) -> Lease:
    """The lease on a job that was just claimed. ValidationError when this version cannot read its config."""
    if job.number is None:
        raise AssertionError("a stored job has a number")
    return Lease(
        job_id=job.id,
        job_number=job.number,
        token=job.token,
        attempt=job.claims,
        worker_id=worker_id,
        voice=job.name,
        dataset_id=job.dataset_id,
        config=TrainingConfig.model_validate(job.config),
        max_duration_seconds=job.max_duration_seconds,
        step_seconds=job.step_seconds,
    )


def lease_lost(lease: Lease) -> LeaseLost:
    """The error for a lease that is no longer valid."""
    return LeaseLost(f"the lease {lease.token} on the job {lease.job_id} has ended or was replaced")
