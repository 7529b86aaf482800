"""Choice of the job that a worker claims next, and the return of a lease that ran out to a worker that is back."""

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Attempt, Job, Worker
from server.job_store.events import NewEvent
from server.job_store.leases import Lease, attempt_of, claim_statement
from server.job_store.transitions import JobColumns, JobStore
from server.scheduling.queue import Group, turns
from server.scheduling.resources import fits, lacking, parse_needs

LAPSED = "back in the queue; it continues from its last checkpoint, or with its worker if that is back before another"
"""Message of an attempt whose lease ran out, which nothing else ends with: its worker may be alive, and cut off."""


def claim_next(session: Session, worker: Worker, now: datetime, job_id: str | None) -> int | None:
    """Claim a job that the worker can run, `job_id` if one is given; returns its number, or None without one."""
    if worker.is_draining or worker.stopped_at is not None:
        return None

    def can_run(needs: str) -> bool:
        return fits(parse_needs(needs), worker)

    if job_id is not None:
        needs = session.exec(select(Job.needs).where(Job.id == job_id)).first()
        candidates: Iterable[Group | str] = [job_id] if needs is not None and can_run(needs) else []
    else:
        candidates = turns(session, can_run, now)
    for each in candidates:
        number: int | None = session.execute(claim_statement(worker.id, now, each)).scalar_one_or_none()
        if number is not None:
            return number
    return None


def why_never_claimed(session: Session, job_id: str, worker_id: str) -> str | None:
    """Reason why the worker cannot claim this job, now or later; None where it may."""
    job = session.exec(select(Job).where(Job.id == job_id)).first()
    if job is None:
        return f"there is no job {job_id}"
    if job.status not in {JobStatus.VALIDATING, JobStatus.QUEUED}:
        return f"the job {job_id} is {job.status}"
    worker = session.get(Worker, worker_id)
    return None if worker is None else "; ".join(lacking(parse_needs(job.needs), [worker])) or None


def regain(session: Session, store: JobStore, lease: Lease) -> bool:
    """Give a lease back that ran out, while the job waits under the same token: no other worker has had it since.

    The attempt goes on as if it had not ended: it has the token that no other one can get, and what its worker sent
    meanwhile was refused, and is sent again.
    """
    query = select(Job).where(Job.id == lease.job_id, Job.token == lease.token, Job.status == JobStatus.QUEUED)
    job = session.exec(query.with_for_update()).first()
    lapsed = sa.select(col(Attempt.id)).where(*attempt_of(lease), col(Attempt.message) == LAPSED)
    worker = session.get(Worker, lease.worker_id)
    if job is None or session.execute(lapsed).first() is None or worker is None or worker.stopped_at is not None:
        return False
    event = NewEvent(EventType.STARTED, f"attempt {job.claims} goes on: its worker is back", {"worker_id": worker.id})
    columns: JobColumns = {"worker_id": worker.id, "recoveries": max(0, job.recoveries - 1)}  # nothing was lost
    columns["heartbeat"] = job.heartbeat + 1  # or the reaper, which may not have looked since, ends it again
    store.transition(session, job, JobStatus.RUNNING, event, **columns)
    reopened = {
        "ended_at": None,
        "outcome": None,
        "message": None,
        "started_at": store.clock(),
    }  # spent hours count once
    session.execute(sa.update(Attempt).where(*attempt_of(lease)).values(**reopened))
    return True
