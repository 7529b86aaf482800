"""The job service: submit, claim, heartbeat, record, finish, cancel, pause, requeue. Only it changes a job's status.

Each call is one transaction and obeys `server.job_store.transitions.TRANSITIONS`. Queries and the commands of users are
here; submissions, leases and the worker registry are parts of the service, a file each.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import MAX_LABELS, JobPatch, JobStatus
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.conversions.queue import conversions_of
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Job
from server.errors import Conflict, PreconditionFailed, Refused
from server.estimates.estimates import Estimator
from server.job_store.events import NewEvent
from server.job_store.leases import AT_ONCE
from server.job_store.queries import find_job, has_labels, newest_numbers, queue_key, queued_after
from server.job_store.transitions import JobStore
from server.job_store.versions import forget_version
from server.jobs.leasing import LeaseOperations
from server.jobs.serializers import update_tag
from server.jobs.submission import Submissions
from server.storage.local import Storage
from server.storage.sizes import measure_relatives_again
from server.workers.registry import WorkerRegistry

S = JobStatus


MIN_INDEXED_PREFIX = len("job_") + 8
"""Length of an id's prefix that only jobs of about a minute share."""


class QueuedJob(NamedTuple):
    """A job and the time at which it came into the queue."""

    job_id: str
    queued_at: datetime


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a list has; None and empty: all."""

    statuses: Sequence[JobStatus] = ()
    dataset_id: str | None = None
    name: str | None = None
    id_prefix: str | None = None
    """With or without `job_`."""
    search: str | None = None
    """Part of the voice's name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Jobs with all of them."""
    owner: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on a job's row, without those on its status and its labels."""
        conditions = [
            col(column) == value
            for column, value in ((Job.dataset_id, self.dataset_id), (Job.name, self.name), (Job.owner, self.owner))
            if value is not None
        ]
        if self.id_prefix is not None:
            conditions += _has_prefix(f"job_{self.id_prefix.removeprefix('job_')}")
        if self.search is not None:
            conditions.append(col(Job.name).icontains(self.search, autoescape=True))
        return conditions


_ALL = JobFilter()


class JobService:
    """All jobs of one database."""

    # Long because each method of its parts becomes one of its own.
    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], datetime] = utc_now,
        *,
        retry_delay_seconds: float = 10,
        max_recoveries: int = 5,
        storage: Storage | None = None,
        quotas: Quotas | None = None,
        estimator: Estimator | None = None,
        requires_consent: bool = False,
    ) -> None:
        """`clock` gives the present time, with its time zone; the two numbers are as in `ServerSettings`.

        `storage` is for a service that claims jobs and publishes results: it creates the folders of attempts, and
        deletes files without a reference; submissions look there for weights. `quotas` and `estimator` are for a
        service that accepts submissions: limits of owners, and forecasts in answers; so is `requires_consent`.
        """
        self.engine, self.clock = engine, clock
        self._store = JobStore(engine, clock)

        # The methods of the parts are the service's own.
        submissions = Submissions(
            self._store, quotas, estimator or Estimator(), storage, requires_consent=requires_consent
        )
        self.submit = submissions.submit
        self.replay = submissions.replay
        self.finish_dataset_validation = submissions.finish_dataset_validation
        self.waiting_for_weights = submissions.waiting_for_weights
        self.record_weights_progress = submissions.record_weights_progress
        self.finish_fetch = submissions.finish_fetch
        self.insert_finished = self._store.insert_finished

        leases = LeaseOperations(
            self._store, retry_delay_seconds=retry_delay_seconds, max_recoveries=max_recoveries, storage=storage
        )
        self.claim = leases.claim
        self.why_never_claimed = leases.why_never_claimed
        self.regain = leases.regain
        self.heartbeat = leases.heartbeat
        self.record_events = leases.record_events
        self.record_engine_process = leases.record_engine_process
        self.provenance = leases.provenance
        self.previous_engine = leases.previous_engine
        self.publish_preview = leases.publish_preview
        self.publish_artifact = leases.publish_artifact
        self.succeed = leases.succeed
        self.fail = leases.fail
        self.release = leases.release
        self.active_leases = leases.active_leases
        self.hand_back = leases.hand_back
        self.requeue_lost = leases.requeue_lost
        self.requeue_worker = leases.requeue_worker

        workers = WorkerRegistry(self._store)
        self.register_worker = workers.register_worker
        self.publish_lease = workers.publish_lease
        self.worker_heartbeat = workers.worker_heartbeat
        self.deregister_worker = workers.deregister_worker
        self.drain_worker = workers.drain_worker

    # Queries

    def get(self, job_id: str) -> Job:
        """One job. NotFound."""
        with read_session(self._store.engine) as session:
            return find_job(session, job_id)

    def list(
        self, wanted: JobFilter = _ALL, after: int | None = None, limit: int = 20
    ) -> tuple[Sequence[Job], int | None]:
        """Jobs, newest first, older than number `after`; and the next page's `after`, None on the last page."""
        with read_session(self._store.engine) as session:
            return newest_jobs(session, wanted, after, limit)

    # Commands

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Cancel a job, at once or through its worker; and whether that was new. NotFound; Conflict after its end."""
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.CANCELLING, S.CANCELLED}:
                return job, False
            record(session, "job.cancelled", job.id)
            if job.status in {S.RUNNING, S.PAUSING}:
                event = NewEvent(EventType.CANCEL_REQUESTED, "cancel requested; the worker will stop")
                self._store.transition(session, job, S.CANCELLING, event)
            else:
                self._store.transition(session, job, S.CANCELLED, NewEvent(EventType.CANCELLED, "cancelled"))
            return job, True

    def pause(self, job_id: str) -> tuple[Job, bool]:
        """Pause a job, at once or through its worker; and whether that was new. NotFound; Conflict in other states."""
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.PAUSING, S.PAUSED}:
                return job, False
            record(session, "job.paused", job.id)
            if job.status == S.RUNNING:
                event = NewEvent(EventType.PAUSE_REQUESTED, "pause requested; the worker will stop after a checkpoint")
                self._store.transition(session, job, S.PAUSING, event)
            else:
                self._store.transition(session, job, S.PAUSED, NewEvent(EventType.PAUSED, "paused"))
            return job, True

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """Return a paused job to the queue; and whether that was new. NotFound; Conflict in other states."""
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            if job.status in {S.QUEUED, S.RUNNING}:
                return job, False
            if job.status != S.PAUSED:
                raise Conflict(f"the job is {job.status}; only a paused job can be resumed")
            record(session, "job.resumed", job.id)
            self._store.transition(session, job, S.QUEUED, NewEvent(EventType.RESUMED, "resumed"), not_before=AT_ONCE)
            return job, True

    def update(self, job_id: str, patch: JobPatch, if_match: Collection[str] | None = None) -> Job:
        """Change labels or priority. NotFound, Conflict, Refused.

        `if_match`: the job's `update_tag` must be one of these; PreconditionFailed otherwise.
        """
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            if if_match is not None and update_tag(job) not in if_match:
                raise PreconditionFailed(
                    "the job's labels or priority have changed since you read them; read the job again"
                )
            changes = _changes(job, patch)
            if changes:
                record(session, "job.edited", job.id, **changes)
                session.execute(sa.update(Job).where(col(Job.number) == job.number).values(**changes))
                session.refresh(job)
            return job

    def force_fail(self, job_id: str, message: str) -> Job:
        """Fail a stuck job, from any state that is not terminal. For administrators. NotFound, Conflict."""
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            record(session, "job.force_failed", job.id, message=message)
            self._store.fail(session, job, FailureCode.INTERNAL, message)
            return job

    def delete(self, job_id: str, *, keep_label: str | None = None) -> Sequence[str]:
        """Delete the rows of a job that has ended and of its files, so that their bytes are no longer charged.

        Those of conversions with its voice go too; returns their ids.

        `keep_label`: a job with this label is not deleted. The files are left to the caller; what a crash leaves of
        them is an orphan. NotFound, Conflict.
        """
        with write_session(self._store.engine) as session:
            job = find_job(session, job_id, lock=True)
            if not JobStatus(job.status).is_terminal:
                raise Conflict(f"the job is {job.status}; cancel it before you delete it")
            if keep_label in job.labels:
                raise Conflict("the job is to be kept")
            record(session, "job.deleted", job.id, name=job.name)
            # Checkpoints that it shared with others, as a retry or as the origin of one, are theirs alone now.
            measure_relatives_again(session, job)
            converted = conversions_of(session, job.id)
            forget_version(session, job)
            session.execute(sa.delete(Job).where(col(Job.number) == job.number))
            return converted

    def seconds_queued(self) -> dict[QueuedJob, float]:
        """Seconds that each queued job has waited, by the wall clock."""
        with read_session(self._store.engine) as session:
            rows = session.exec(select(Job.id, Job.queued_at).where(Job.status == S.QUEUED)).all()
        now = self._store.clock()
        return {QueuedJob(job_id, at): (now - at).total_seconds() for job_id, at in rows if at is not None}

    def fail_queued(self, queued: QueuedJob, seconds: float) -> bool:
        """Fail a job that no worker took in `seconds`; False when it has left the queue."""
        with write_session(self._store.engine) as session:
            query = select(Job).where(
                Job.id == queued.job_id, Job.status == S.QUEUED, col(Job.queued_at) == queued.queued_at
            )
            if (job := session.exec(query.with_for_update()).first()) is None:
                return False
            message = f"no worker took the job in {seconds:.0f} s; start a worker and submit it again"
            self._store.fail(session, job, FailureCode.QUEUE_TIMEOUT, message)
            return True


def newest_jobs(session: Session, wanted: JobFilter, after: int | None, limit: int) -> tuple[Sequence[Job], int | None]:
    """Jobs, newest first, older than number `after`; and the next page's `after`, None on the last page."""
    conditions = wanted.conditions()
    if after is not None:
        conditions.append(col(Job.number) < after)
    numbers = newest_numbers(conditions, wanted.statuses, wanted.labels, limit + 1)
    jobs = session.exec(select(Job).where(col(Job.number).in_(numbers)).order_by(col(Job.number).desc())).all()
    return jobs[:limit], jobs[limit - 1].number if len(jobs) > limit else None


def next_jobs(session: Session, wanted: JobFilter, after: int | None, limit: int) -> tuple[Sequence[Job], int | None]:
    """Queued jobs in the order in which they will run; and the next page's `after`, None on the last page."""
    jobs = queued_after(session, wanted.conditions() + has_labels(wanted.labels), after or 0, limit + 1)
    return jobs[:limit], queue_key(jobs[limit - 1]) if len(jobs) > limit else None


def numbers_by_status(session: Session, wanted: JobFilter) -> dict[JobStatus, int]:
    """Number of jobs by status, of all statuses."""
    query = sa.select(col(Job.status), sa.func.count()).where(*wanted.conditions(), *has_labels(wanted.labels))
    return {JobStatus(status): number for status, number in session.connection().execute(query.group_by(Job.status))}


def _has_prefix(prefix: str) -> list[sa.ColumnElement[bool]]:
    """Conditions for ids that start with `prefix`; a long one by the index, as few ids have it."""
    conditions: list[sa.ColumnElement[bool]] = [col(Job.id).startswith(prefix, autoescape=True)]
    if len(prefix) >= MIN_INDEXED_PREFIX:
        conditions.append(col(Job.id).between(prefix.lower(), prefix.lower() + "g"))  # ids are hexadecimal
    return conditions


def _changes(job: Job, patch: JobPatch) -> dict[str, Any]:
    """The columns that a patch changes. Conflict for a priority without effect, Refused for too many labels."""
    changes: dict[str, Any] = {}
    if patch.labels is not None:
        labels = {key: value for key, value in (job.labels | patch.labels).items() if value is not None}
        if len(labels) > MAX_LABELS:
            raise Refused(f"the job would have {len(labels)} labels; at most {MAX_LABELS} are allowed", "/labels")
        changes["labels"] = labels
    if patch.priority is not None and patch.priority != job.priority:
        if job.status != S.QUEUED:
            raise Conflict(f"the job is {job.status}; its priority can be changed only while it is queued")
        changes["priority"] = patch.priority
    return {key: value for key, value in changes.items() if value != getattr(job, key)}
