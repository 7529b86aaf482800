"""The job service: submit, claim, heartbeat, record, finish, cancel, pause, requeue. Only it changes a job's status.

Each call is one transaction and obeys `server.job_store.states.TRANSITIONS`. The service has parts, a file each:
`submission`, `leasing` (what workers write) and `server.workers.registry`; here are the commands of users.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import col, select

from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import LEASED_STATUSES, JobPatch, JobStatus
from server.auth.audit import record
from server.auth.quotas import record_spent_hours
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Job
from server.errors import Conflict, NotFound, PreconditionFailed
from server.job_store.events import NewEvent
from server.job_store.leases import ActiveLease, Drain, EngineProcess, Lease, WorkerCommand
from server.job_store.lookups import find_job
from server.jobs.leasing import LeaseOperations
from server.jobs.submission import Submissions
from server.jobs.updates import apply_patch, update_tag
from server.workers.registry import WorkerRegistry

S = JobStatus

__all__ = ["ActiveLease", "Drain", "EngineProcess", "JobService", "Lease", "WorkerCommand", "utc_now"]


class JobService(Submissions, WorkerRegistry, LeaseOperations):
    """All jobs, on one database."""

    # Queries

    def get(self, job_id: str) -> Job:
        """One job. NotFound."""
        with read_session(self.engine) as session:
            return find_job(session, job_id)

    def list(
        self,
        *,
        statuses: Sequence[JobStatus] = (),
        dataset_id: str | None = None,
        name: str | None = None,
        id_prefix: str | None = None,
        search: str | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> tuple[Sequence[Job], bool]:
        """Jobs, newest first, beginning behind the job `after`; and whether there are more. NotFound for `after`.

        `owner` None: everyone's. `id_prefix`: with `job_` or without. `search`: a part of the voice's name. `labels`:
        jobs that have all of them.
        """
        with read_session(self.engine) as session:
            query = select(Job).order_by(col(Job.number).desc()).limit(limit + 1)
            if statuses:
                query = query.where(col(Job.status).in_(statuses))
            wanted = ((Job.dataset_id, dataset_id), (Job.name, name), (Job.owner, owner))
            for column, value in wanted:
                if value is not None:
                    query = query.where(col(column) == value)
            if id_prefix is not None:
                beginning = id_prefix if id_prefix.startswith("job_") else f"job_{id_prefix}"
                query = query.where(col(Job.id).startswith(beginning, autoescape=True))
            if search is not None:
                query = query.where(col(Job.name).icontains(search, autoescape=True))
            for key, value in (labels or {}).items():
                query = query.where(col(Job.labels)[key].as_string() == value)
            if after is not None:
                last = find_job(session, after)
                if owner not in {None, last.owner}:
                    raise NotFound(f"there is no job {after}")
                query = query.where(col(Job.number) < last.number)
            jobs = session.exec(query).all()
            return jobs[:limit], len(jobs) > limit

    # Commands

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Cancel a job, at once or by asking its worker; and whether that was new. Conflict when it has ended."""
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.CANCELLING, S.CANCELLED}:
                return job, False
            record(session, "job.cancelled", job.id)
            if job.status in {S.RUNNING, S.PAUSING}:
                entry = NewEvent(EventType.CANCEL_REQUESTED, "cancel requested; the worker will stop")
                self._transitions.transition(session, job, S.CANCELLING, entry)
            else:
                self._transitions.transition(session, job, S.CANCELLED, NewEvent(EventType.CANCELLED, "cancelled"))
            return job, True

    def pause(self, job_id: str) -> tuple[Job, bool]:
        """Pause a job, at once or by asking its worker; and whether that was new. Conflict where it cannot be."""
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.PAUSING, S.PAUSED}:
                return job, False
            record(session, "job.paused", job.id)
            if job.status == S.RUNNING:
                entry = NewEvent(EventType.PAUSE_REQUESTED, "pause requested; the worker will stop after a checkpoint")
                self._transitions.transition(session, job, S.PAUSING, entry)
            else:
                self._transitions.transition(session, job, S.PAUSED, NewEvent(EventType.PAUSED, "paused"))
            return job, True

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """Put a paused job back into the queue; and whether that was new. Conflict where it is not paused."""
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.QUEUED, S.RUNNING}:
                return job, False
            if job.status != S.PAUSED:
                raise Conflict(f"the job is {job.status}; only a paused job can be resumed")
            record(session, "job.resumed", job.id)
            self._transitions.transition(
                session, job, S.QUEUED, NewEvent(EventType.RESUMED, "resumed"), not_before=self._clock()
            )
            return job, True

    def update(self, job_id: str, patch: JobPatch, if_match: Collection[str] | None = None) -> Job:
        """Change labels or priority. NotFound, Conflict, Refused.

        `if_match`: only if the job's `edit_tag` is one of these; PreconditionFailed otherwise.
        """
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            if if_match is not None and update_tag(job) not in if_match:
                raise PreconditionFailed("the job's labels or priority have changed since you saw them; look again")
            changes = apply_patch(job, patch)
            if changes:
                record(session, "job.edited", job.id, **changes)
                session.execute(sa.update(Job).where(col(Job.number) == job.number).values(**changes))
                session.refresh(job)
            return job

    def force_fail(self, job_id: str, message: str) -> Job:
        """End a job that is stuck, from any state that is not terminal. For administrators."""
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            record(session, "job.force_failed", job.id, message=message)
            self._transitions.fail(session, job, FailureCode.INTERNAL, message)
            return job

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with its events, metrics and artifacts; its files are the caller's business."""
        with write_session(self.engine) as session:
            job = find_job(session, job_id, lock=True)
            if not JobStatus(job.status).is_terminal:
                raise Conflict(f"the job is {job.status}; cancel it before you delete it")
            record(session, "job.deleted", job.id, name=job.name)
            record_spent_hours(session, job, self._clock())
            session.execute(sa.delete(Job).where(col(Job.number) == job.number))

    # Periodic tasks

    def active_leases(self) -> Sequence[ActiveLease]:
        """The active leases."""
        with read_session(self.engine) as session:
            query = select(Job.id, Job.token, Job.heartbeat).where(col(Job.status).in_(LEASED_STATUSES))
            return [ActiveLease(*row) for row in session.exec(query).all()]

    def requeue_lost(self, lease: ActiveLease) -> JobStatus | None:
        """Take a job from a worker that is lost, unless it has spoken since. Returns the new status; None: it has."""
        with write_session(self.engine) as session:
            query = select(Job).where(
                Job.id == lease.job_id,
                Job.token == lease.token,
                Job.heartbeat == lease.heartbeat,
                col(Job.status).in_(LEASED_STATUSES),
            )
            job = session.exec(query.with_for_update()).first()
            if job is None:
                return None
            data: dict[str, Any] = {"worker_id": job.worker_id}
            self._transitions.append_events(
                session, job, NewEvent(EventType.WORKER_LOST, "the worker stopped answering", data, "warning")
            )
            recoveries: dict[str, Any] = {"recoveries": job.recoveries + 1, "outcome": "lost"}
            if job.status == S.CANCELLING:
                self._transitions.transition(
                    session, job, S.CANCELLED, NewEvent(EventType.CANCELLED, "cancelled"), **recoveries
                )
            elif job.status == S.PAUSING:
                self._transitions.transition(session, job, S.PAUSED, NewEvent(EventType.PAUSED, "paused"), **recoveries)
            elif job.recoveries >= self._max_recoveries:
                message = f"the job lost its worker {job.recoveries + 1} times; look at the workers' logs and memory"
                self._transitions.fail(session, job, FailureCode.WORKER_LOST, message, **recoveries)
            else:
                entry = NewEvent(EventType.QUEUED, "back in the queue; it goes on from its last checkpoint")
                self._transitions.transition(session, job, S.QUEUED, entry, not_before=self._clock(), **recoveries)
            return JobStatus(job.status)

    def time_out_queued(self, seconds: float) -> int:
        """Fail the jobs that wait in the queue for longer than `seconds`; returns how many."""
        with write_session(self.engine) as session:
            oldest = self._clock() - timedelta(seconds=seconds)
            query = select(Job).where(Job.status == S.QUEUED, col(Job.queued_at) < oldest)
            jobs = session.exec(query.with_for_update()).all()
            for job in jobs:
                message = f"no worker took the job in {seconds:.0f} s; start a worker and submit it anew"
                self._transitions.fail(session, job, FailureCode.QUEUE_TIMEOUT, message)
            return len(jobs)
