"""Choice of the job that a worker claims next."""

from collections.abc import Iterable
from datetime import datetime

from sqlmodel import Session, select

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Job, Worker
from server.job_store.leases import claim_statement
from server.scheduling.queue import Group, turns
from server.scheduling.resources import fits, lacking, parse_needs


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
