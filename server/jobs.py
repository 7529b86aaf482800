"""The job book: submit, claim, heartbeat, record, finish, cancel, pause, requeue. Nobody else changes a job's status.

Each call is one transaction. Each claim raises the job's token; a worker's call presents its claim and is turned away
with ClaimLost when the token was replaced or the job has ended. Every step obeys `server.states.TRANSITIONS`.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col, select

from rvc_engine import events as said
from rvc_engine.errors import FailureCode
from server.audit import note
from server.callers import LOCAL_OWNER
from server.claims import (
    LONGEST_RETRY_DELAY,
    WISHES,
    Claim,
    EngineProcess,
    Held,
    Wish,
    attempt_of,
    claim_of,
    claiming,
    holding,
    lost,
)
from server.database import read_session, write_session
from server.errors import Conflict, NotFound, NothingPublished, Refused
from server.journal import Entry, digest
from server.ledger import Ledger, upsert_metrics
from server.quotas import Quotas, remember_hours
from server.saves import PreviewFiles, write_evaluations, write_preview
from server.schemas import DatasetStatus, EventType, JobCreate, JobStatus
from server.states import HELD_STATUSES
from server.tables import Artifact, Attempt, Dataset, IdempotencyKey, Job, Worker, new_id
from server.webhooks import for_wish, note_event

S = JobStatus
IDEMPOTENCY_HOURS = 24


def utc_now() -> datetime:
    """The present time with its zone."""
    return datetime.now(UTC)


__all__ = ["Claim", "EngineProcess", "Held", "JobBook", "Wish", "utc_now"]


class JobBook:
    """All jobs, on one database."""

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], datetime] = utc_now,
        *,
        retry_delay_seconds: float = 10,
        max_recoveries: int = 5,
        quotas: Quotas | None = None,
    ) -> None:
        """`clock` gives the present time, with its zone; the two numbers are as in `ServerSettings`.

        `quotas`: what owners may have, for the book that takes jobs in.
        """
        self.engine = engine
        self._clock = clock
        self._ledger = Ledger(clock)
        self._retry_delay_seconds = retry_delay_seconds
        self._max_recoveries = max_recoveries
        self._quotas = quotas

    # For those who submit

    def submit(
        self,
        wish: JobCreate,
        *,
        owner: str = LOCAL_OWNER,
        sees: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Take a job in. The same key with the same wish gives the same job again for a day.

        `sees`: whose datasets may be used; None: anyone's.

        Raises Refused when the dataset is unknown or unusable, or the key was used for another wish.
        """
        with write_session(self.engine) as session:
            if idempotency_key is not None and (known := self._replayed(session, owner, idempotency_key, wish)):
                return known
            dataset = session.get(Dataset, wish.dataset_id)
            if dataset is None or dataset.deleted_at is not None or sees not in {None, dataset.owner}:
                raise Refused(f"there is no dataset {wish.dataset_id}; upload one first", "/dataset_id")
            if dataset.status == DatasetStatus.INVALID:
                raise Refused(f"the dataset {wish.dataset_id} is not usable: {dataset.reason}", "/dataset_id")
            if self._quotas is not None:
                self._quotas.check_job(session, owner)
            now = self._clock()
            fields = wish.model_dump(mode="json", exclude={"webhook"})
            job = Job(**fields, id=new_id("job"), owner=owner, created_at=now, not_before=now)
            session.add(job)
            session.flush()
            if wish.webhook is not None:
                session.add(for_wish(owner, wish.webhook, job.id, now))
            if idempotency_key is not None:
                key, fingerprint = idempotency_key, _fingerprint(wish)
                row = IdempotencyKey(owner=owner, key=key, fingerprint=fingerprint, job_id=job.id, created_at=now)
                session.add(row)
            self._ledger.tell(session, job, Entry(EventType.CREATED, f"job for the voice {job.name!r} created"))
            note(session, "job.submitted", job.id, name=job.name, dataset_id=job.dataset_id)
            if dataset.status == DatasetStatus.READY:
                self._enqueue_validated(session, job)
            session.refresh(job)
            return job

    def _replayed(self, session: Session, owner: str, key: str, wish: JobCreate) -> Job | None:
        oldest = self._clock() - timedelta(hours=IDEMPOTENCY_HOURS)
        session.execute(sa.delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < oldest))
        row = session.get(IdempotencyKey, (owner, key))
        if row is None:
            return None
        if row.fingerprint != _fingerprint(wish):
            raise Refused("this Idempotency-Key was used for another job; take a new key")
        job = session.exec(select(Job).where(Job.id == row.job_id)).first()
        if job is None:  # deleted in the meantime: the key is free again
            session.delete(row)
            session.flush()
        return job

    def get(self, job_id: str) -> Job:
        """One job. NotFound."""
        with read_session(self.engine) as session:
            return _find(session, job_id)

    def list(
        self,
        *,
        statuses: Sequence[JobStatus] = (),
        dataset_id: str | None = None,
        owner: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> tuple[Sequence[Job], bool]:
        """Jobs, newest first, beginning behind the job `after`; and whether there are more. NotFound for `after`.

        `owner` None: everyone's.
        """
        with read_session(self.engine) as session:
            query = select(Job).order_by(col(Job.number).desc()).limit(limit + 1)
            if statuses:
                query = query.where(col(Job.status).in_(statuses))
            if dataset_id is not None:
                query = query.where(Job.dataset_id == dataset_id)
            if owner is not None:
                query = query.where(Job.owner == owner)
            if after is not None:
                query = query.where(col(Job.number) < _find(session, after).number)
            jobs = session.exec(query).all()
            return jobs[:limit], len(jobs) > limit

    def cancel(self, job_id: str) -> tuple[Job, bool]:
        """Cancel a job, at once or by asking its worker; and whether that was new. Conflict when it has ended."""
        with write_session(self.engine) as session:
            job = _find(session, job_id, lock=True)
            if job.status in {S.CANCELLING, S.CANCELLED}:
                return job, False
            note(session, "job.cancelled", job.id)
            if job.status in {S.RUNNING, S.PAUSING}:
                entry = Entry(EventType.CANCEL_REQUESTED, "cancel requested; the worker will stop")
                self._ledger.move(session, job, S.CANCELLING, entry)
            else:
                self._ledger.move(session, job, S.CANCELLED, Entry(EventType.CANCELLED, "cancelled"))
            return job, True

    def pause(self, job_id: str) -> tuple[Job, bool]:
        """Pause a job, at once or by asking its worker; and whether that was new. Conflict where it cannot be."""
        with write_session(self.engine) as session:
            job = _find(session, job_id, lock=True)
            if job.status in {S.PAUSING, S.PAUSED}:
                return job, False
            note(session, "job.paused", job.id)
            if job.status == S.RUNNING:
                entry = Entry(EventType.PAUSE_REQUESTED, "pause requested; the worker will stop after a checkpoint")
                self._ledger.move(session, job, S.PAUSING, entry)
            else:
                self._ledger.move(session, job, S.PAUSED, Entry(EventType.PAUSED, "paused"))
            return job, True

    def resume(self, job_id: str) -> tuple[Job, bool]:
        """Put a paused job back into the queue; and whether that was new. Conflict where it is not paused."""
        with write_session(self.engine) as session:
            job = _find(session, job_id, lock=True)
            if job.status in {S.QUEUED, S.RUNNING}:
                return job, False
            if job.status != S.PAUSED:
                raise Conflict(f"the job is {job.status}; only a paused job can be resumed")
            note(session, "job.resumed", job.id)
            self._ledger.move(session, job, S.QUEUED, Entry(EventType.RESUMED, "resumed"), not_before=self._clock())
            return job, True

    def force_fail(self, job_id: str, message: str) -> Job:
        """End a job that is stuck, from any state that is not terminal. For administrators."""
        with write_session(self.engine) as session:
            job = _find(session, job_id, lock=True)
            note(session, "job.force_failed", job.id, message=message)
            self._ledger.fail(session, job, FailureCode.INTERNAL, message)
            return job

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended, with its events, metrics and artifacts; its files are the caller's business."""
        with write_session(self.engine) as session:
            job = _find(session, job_id, lock=True)
            if not JobStatus(job.status).is_terminal:
                raise Conflict(f"the job is {job.status}; cancel it before you delete it")
            note(session, "job.deleted", job.id, name=job.name)
            remember_hours(session, job, self._clock())
            session.execute(sa.delete(Job).where(col(Job.number) == job.number))

    # For the dataset's report

    def settle_dataset(self, session: Session, dataset_id: str, reason: str | None) -> None:
        """Let the jobs that waited for a dataset's report go on, or fail with `reason`; in the caller's transaction."""
        query = select(Job).where(Job.dataset_id == dataset_id, Job.status == S.VALIDATING).order_by(col(Job.number))
        for job in session.exec(query.with_for_update()).all():
            if reason is None:
                self._enqueue_validated(session, job)
            else:
                self._ledger.fail(session, job, FailureCode.INVALID_DATASET, reason)

    def _enqueue_validated(self, session: Session, job: Job) -> None:
        self._ledger.tell(session, job, Entry(EventType.VALIDATED, "the dataset is usable"))
        self._ledger.move(session, job, S.QUEUED, Entry(EventType.QUEUED, "waiting for a worker"))

    # For workers

    def register_worker(self, name: str, pid: int, host: str, device: str) -> str:
        """Make a worker known and return its id."""
        now = self._clock()
        with write_session(self.engine) as session:
            worker = Worker(
                id=new_id("wrk"), name=name, pid=pid, host=host, device=device, registered_at=now, last_seen_at=now
            )
            session.add(worker)
            return worker.id

    def worker_heartbeat(self, worker_id: str) -> bool:
        """Say that the worker lives; returns whether it is asked to drain (finish nothing new, and end)."""
        with write_session(self.engine) as session:
            statement = (
                sa.update(Worker)
                .where(col(Worker.id) == worker_id)
                .values(last_seen_at=self._clock())
                .returning(col(Worker.is_draining))
            )
            is_draining = session.execute(statement).scalar_one_or_none()
            if is_draining is None:
                raise NotFound(f"there is no worker {worker_id}; register first")
            return bool(is_draining)

    def worker_stopped(self, worker_id: str) -> None:
        """Say that the worker ends, cleanly."""
        with write_session(self.engine) as session:
            now = self._clock()
            statement = sa.update(Worker).where(col(Worker.id) == worker_id)
            session.execute(statement.values(stopped_at=now, last_seen_at=now))

    def claim(self, worker_id: str) -> Claim | None:
        """Take the next job: by priority, then by order of submission. None when nothing waits."""
        while True:
            with write_session(self.engine) as session:
                number = session.execute(claiming(worker_id, self._clock())).scalar_one_or_none()
                if number is None:
                    return None
                job = session.exec(select(Job).where(Job.number == number)).one()
                self._ledger.tell(
                    session, job, Entry(EventType.STARTED, f"attempt {job.claims} started", _of(worker_id))
                )
                note_event(session, job, EventType.STARTED, self._clock())
                attempt = Attempt(
                    job_number=number,
                    attempt=job.claims,
                    token=job.token,
                    worker_id=worker_id,
                    started_at=self._clock(),
                )
                session.add(attempt)
                session.flush()
                try:
                    return claim_of(job, worker_id)
                except ValidationError as error:  # an older server's config that this one no longer takes
                    message = f"the job's config does not fit this version: {error.errors()[0]['msg']}; submit it anew"
                    self._ledger.fail(session, job, FailureCode.INVALID_CONFIG, message)

    def heartbeat(self, claim: Claim) -> Wish:
        """Say that the job is being worked on, and hear what is wished. ClaimLost."""
        with write_session(self.engine) as session:
            statement = (
                sa.update(Job)
                .where(*holding(claim))
                .values(heartbeat=Job.heartbeat + 1)
                .returning(col(Job.status))
                .execution_options(synchronize_session=False)
            )
            status = session.execute(statement).scalar_one_or_none()
            if status is None:
                raise lost(claim)
            worker = sa.update(Worker).where(col(Worker.id) == claim.worker_id)
            session.execute(worker.values(last_seen_at=self._clock()))
            return WISHES[JobStatus(status)]

    def record(self, claim: Claim, events: Sequence[said.Event]) -> None:
        """Write down what the engine said. ClaimLost."""
        summed = digest(events)
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            self._ledger.tell(session, job, *summed.entries)
            columns = summed.columns | {"num_warnings": job.num_warnings + summed.num_warnings}
            if summed.losses:
                columns["losses"] = job.losses | summed.losses
            session.execute(sa.update(Job).where(*holding(claim)).values(**columns))
            upsert_metrics(session, claim.job_number, summed.metrics)
            write_evaluations(session, claim.job_number, summed.evaluations, self._clock())

    def publish_preview(self, claim: Claim, preview: said.PreviewReady, files: PreviewFiles) -> None:
        """Offer the stored files of a preview. ClaimLost."""
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            entry = write_preview(session, claim.job_id, claim.job_number, preview, files, self._clock())
            self._ledger.tell(session, job, entry)

    def engine_process(self, claim: Claim, pid: int, started_at: float) -> None:
        """Record the attempt's engine, so that a successor can end it should it outlive its worker. ClaimLost."""
        with write_session(self.engine) as session:
            self._held(session, claim)
            statement = sa.update(Attempt).where(*attempt_of(claim))
            session.execute(statement.values(engine_pid=pid, engine_started_at=started_at))

    def previous_engine(self, claim: Claim) -> EngineProcess | None:
        """The last engine that an earlier attempt at the job ran; it may still live."""
        with read_session(self.engine) as session:
            query = (
                select(Attempt, Worker)
                .where(
                    Attempt.job_number == claim.job_number,
                    col(Attempt.token) < claim.token,
                    col(Attempt.engine_pid).is_not(None),
                    Attempt.worker_id == Worker.id,
                )
                .order_by(col(Attempt.token).desc())
                .limit(1)
            )
            found = session.exec(query).first()
        if found is None or found[0].engine_pid is None:
            return None
        attempt, worker = found
        return EngineProcess(found[0].engine_pid, attempt.engine_started_at or 0.0, worker.host)

    def publish_artifact(self, claim: Claim, kind: str, name: str, path: str, size: int, sha256: str) -> None:
        """Offer a stored file for download; a file of the same name is replaced. `path` as `StoredFile`. ClaimLost."""
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            named = (col(Artifact.job_number) == claim.job_number, col(Artifact.name) == name)
            session.execute(sa.delete(Artifact).where(*named))
            artifact = Artifact(
                id=new_id("art"),
                job_number=claim.job_number,
                kind=kind,
                name=name,
                path=path,
                size=size,
                sha256=sha256,
                created_at=self._clock(),
            )
            session.add(artifact)
            data = {"kind": kind, "name": name, "size": size, "sha256": sha256}
            self._ledger.tell(session, job, Entry(EventType.ARTIFACT_PUBLISHED, f"{name} is ready", data))

    def succeed(self, claim: Claim) -> None:
        """The voice is made and published. Wins over a cancel that came before. ClaimLost, NothingPublished."""
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            has_voice = sa.select(
                sa.exists().where(col(Artifact.job_number) == job.number, col(Artifact.kind) == "voice")
            )
            if not session.execute(has_voice).scalar_one():
                raise NothingPublished(f"the job {job.id} published no voice; it cannot have succeeded")
            self._ledger.move(
                session, job, S.SUCCEEDED, Entry(EventType.SUCCEEDED, "done"), progress=1.0, eta_seconds=0.0
            )

    def fail(self, claim: Claim, code: FailureCode, message: str) -> JobStatus:
        """The attempt failed: to be tried again where that can help, or the job has failed. ClaimLost.

        Returns what became of the job.
        """
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            failures: dict[str, Any] = {"failures": job.failures + 1}
            data = {"code": str(code)}
            is_retried = code.retryable and job.failures + 1 < job.max_attempts
            if job.status == S.CANCELLING:
                self._ledger.move(session, job, S.CANCELLED, Entry(EventType.CANCELLED, "cancelled"), **failures)
            elif job.status == S.PAUSING and code.retryable:
                entry = Entry(EventType.PAUSED, f"paused after a failure: {message}", data, "warning")
                self._ledger.move(session, job, S.PAUSED, entry, **failures)
            elif is_retried:
                delay = min(self._retry_delay_seconds * 2**job.failures, LONGEST_RETRY_DELAY.total_seconds())
                entry = Entry(EventType.RETRYING, f"{message}; trying again in {delay:.0f} s", data, "warning")
                not_before = self._clock() + timedelta(seconds=delay)
                self._ledger.move(session, job, S.QUEUED, entry, not_before=not_before, **failures)
            else:
                self._ledger.fail(session, job, code, message, **failures)
            return JobStatus(job.status)

    def hand_back(self, claim: Claim, reason: str) -> JobStatus:
        """The engine stopped because it was asked to; no failure is counted. ClaimLost. Returns the new status."""
        with write_session(self.engine) as session:
            job = self._held(session, claim)
            if job.status == S.CANCELLING:
                self._ledger.move(session, job, S.CANCELLED, Entry(EventType.CANCELLED, "cancelled"))
            elif job.status == S.PAUSING:
                self._ledger.move(session, job, S.PAUSED, Entry(EventType.PAUSED, "paused"))
            else:
                self._ledger.move(session, job, S.QUEUED, Entry(EventType.QUEUED, f"back in the queue: {reason}"))
            return JobStatus(job.status)

    # For housekeeping

    def held(self) -> Sequence[Held]:
        """All jobs in workers' hands."""
        with read_session(self.engine) as session:
            query = select(Job.id, Job.token, Job.heartbeat).where(col(Job.status).in_(HELD_STATUSES))
            return [Held(*row) for row in session.exec(query).all()]

    def requeue_lost(self, held: Held) -> JobStatus | None:
        """Take a job from a worker that is lost, unless it has spoken since. Returns the new status; None: it has."""
        with write_session(self.engine) as session:
            query = select(Job).where(
                Job.id == held.job_id,
                Job.token == held.token,
                Job.heartbeat == held.heartbeat,
                col(Job.status).in_(HELD_STATUSES),
            )
            job = session.exec(query.with_for_update()).first()
            if job is None:
                return None
            data: dict[str, Any] = _of(job.worker_id)
            self._ledger.tell(
                session, job, Entry(EventType.WORKER_LOST, "the worker stopped answering", data, "warning")
            )
            recoveries: dict[str, Any] = {"recoveries": job.recoveries + 1, "outcome": "lost"}
            if job.status == S.CANCELLING:
                self._ledger.move(session, job, S.CANCELLED, Entry(EventType.CANCELLED, "cancelled"), **recoveries)
            elif job.status == S.PAUSING:
                self._ledger.move(session, job, S.PAUSED, Entry(EventType.PAUSED, "paused"), **recoveries)
            elif job.recoveries >= self._max_recoveries:
                message = f"the job lost its worker {job.recoveries + 1} times; look at the workers' logs and memory"
                self._ledger.fail(session, job, FailureCode.WORKER_LOST, message, **recoveries)
            else:
                entry = Entry(EventType.QUEUED, "back in the queue; it goes on from its last checkpoint")
                self._ledger.move(session, job, S.QUEUED, entry, not_before=self._clock(), **recoveries)
            return JobStatus(job.status)

    def time_out_queued(self, seconds: float) -> int:
        """Fail the jobs that wait in the queue for longer than `seconds`; returns how many."""
        with write_session(self.engine) as session:
            oldest = self._clock() - timedelta(seconds=seconds)
            query = select(Job).where(Job.status == S.QUEUED, col(Job.queued_at) < oldest)
            jobs = session.exec(query.with_for_update()).all()
            for job in jobs:
                message = f"no worker took the job in {seconds:.0f} s; start a worker and submit it anew"
                self._ledger.fail(session, job, FailureCode.QUEUE_TIMEOUT, message)
            return len(jobs)

    # The inner workings

    def _held(self, session: Session, claim: Claim) -> Job:
        job = session.exec(select(Job).where(*holding(claim)).with_for_update()).first()
        if job is None:
            raise lost(claim)
        return job


def _of(worker_id: str | None) -> dict[str, Any]:
    return {"worker_id": worker_id}


def _find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    query = select(Job).where(Job.id == job_id)
    job = session.exec(query.with_for_update() if lock else query).first()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def _fingerprint(wish: JobCreate) -> str:
    return hashlib.sha256(wish.model_dump_json().encode()).hexdigest()
