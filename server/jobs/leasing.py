"""Operations on leases: all writes of a worker, from the claim to the end of the attempt; and recovery of lost jobs.

A worker's call presents its lease and raises LeaseLost when the token was replaced or the job has ended. Every call
locks the job's row, so all that it reads under the lease stays as it is until it commits.

A commit may succeed without an answer, and the worker then calls again. Calls that end the attempt, and heartbeats, may
be repeated: the second one raises LeaseLost, or changes nothing. Calls that append events have a number, `write`, which
is counted from 1 under each lease and kept in the attempt's row: a repeated number changes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Unpack

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col, select

from rvc_engine import events as engine_events
from rvc_engine.card.provenance import Provenance
from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from rvc_train.schemas.workers import Drain, WorkerCommand
from server.database.engine import read_session, require_schema, write_session
from server.database.result_tables import Artifact
from server.database.tables import Attempt, Dataset, Job, JobConsent, Worker, new_id
from server.errors import LeaseLost, NothingPublished
from server.job_store.events import EventBatch, NewEvent, aggregate
from server.job_store.leases import (
    AT_ONCE,
    COMMANDS,
    IS_LEASED,
    LONGEST_RETRY_DELAY,
    ActiveLease,
    EngineProcess,
    Lease,
    attempt_of,
    lease_is_valid,
    lease_lost,
    lease_of,
)
from server.job_store.transitions import JobColumns, JobStore, upsert_metrics
from server.jobs.claims import LAPSED, claim_next, regain, why_never_claimed
from server.results.evaluations import PreviewFiles, write_evaluations, write_preview, write_quality
from server.results.stored_files import add_stored_files, remove_unreferenced
from server.storage.local import Storage, StoredFile
from server.storage.sizes import measure_again
from server.webhooks.service import enqueue_deliveries

S = JobStatus
CONTINUES = "back in the queue; it continues from its last checkpoint"


class LeaseOperations:
    """Operations on jobs under a lease. Each call is one transaction."""

    def __init__(
        self, store: JobStore, *, retry_delay_seconds: float, max_recoveries: int, storage: Storage | None
    ) -> None:
        """`storage` as in `JobService`; the two numbers are as in `ServerSettings`."""
        self._store, self._storage = store, storage
        self._retry_delay_seconds = retry_delay_seconds
        self._max_recoveries = max_recoveries

    def claim(self, worker_id: str, *, is_repeated: bool = False, job_id: str | None = None) -> Lease | None:
        """Claim the next job that the worker can run, in the order of `server.scheduling.queue`. None when none is due.

        `job_id`: claim this one or none.

        `is_repeated`: the answer to the worker's last call was lost; the job that it may have claimed is returned.

        The attempt's folder is created before the commit, so that a deletion of the job, which waits for that, finds
        it. Raises OSError, without a claim, when that fails; SchemaChanged when the schema is not this program's.
        """
        while True:
            with write_session(self._store.engine) as session:
                require_schema(session)
                if is_repeated and (job := self._unused_claim(session, worker_id)) is not None:
                    return lease_of(job, worker_id)
                worker = session.get(Worker, worker_id)
                number = None if worker is None else claim_next(session, worker, self._store.clock(), job_id)
                if worker is None or number is None:
                    return None
                job = session.exec(select(Job).where(Job.number == number)).one()
                self._begin_attempt(session, job, number, worker)
                try:
                    lease = lease_of(job, worker_id)
                except ValidationError as error:  # the config of an older server, no longer valid
                    message = f"the job's config does not fit this version: {error.errors()[0]['msg']}; submit it again"
                    self._store.fail(session, job, FailureCode.INVALID_CONFIG, message)
                    continue
                if self._storage is not None:
                    self._storage.create_attempt(lease.job_id, lease.token)
                return lease

    def why_never_claimed(self, job_id: str, worker_id: str) -> str | None:
        """Reason why the worker cannot claim this job, now or later; None where it may."""
        with read_session(self._store.engine) as session:
            return why_never_claimed(session, job_id, worker_id)

    def regain(self, lease: Lease) -> bool:
        """Give back a lease that ran out while its worker was away, if no other has taken the job; whether it was."""
        with write_session(self._store.engine) as session:
            return regain(session, self._store, lease)

    @staticmethod
    def _unused_claim(session: Session, worker_id: str) -> Job | None:
        """A job that the worker holds without having written anything."""
        query = select(Job).where(
            Job.worker_id == worker_id,
            col(Job.status).in_(LEASED_STATUSES),
            sa.exists().where(
                col(Attempt.job_number) == Job.number,
                col(Attempt.token) == Job.token,
                col(Attempt.last_write) == 0,
                col(Attempt.engine_pid).is_(None),
            ),
        )
        return session.exec(query.limit(1).with_for_update()).first()

    def _begin_attempt(self, session: Session, job: Job, number: int, worker: Worker) -> None:
        now = self._store.clock()
        data = {"worker_id": worker.id, "device": worker.device}
        event = NewEvent(EventType.STARTED, f"attempt {job.claims} started", data)
        self._store.append_events(session, job, event)
        enqueue_deliveries(session, job, EventType.STARTED, now)
        session.add(
            Attempt(
                job_number=number,
                attempt=job.claims,
                token=job.token,
                worker_id=worker.id,
                started_at=now,
                device=worker.device,
                device_name=worker.device_name,
            )
        )
        measure_again(session, job)
        session.flush()

    def heartbeat(self, lease: Lease) -> WorkerCommand:
        """Renew the lease; returns the command for its worker. LeaseLost."""
        with self._lease_session(lease) as session:
            statement = (
                sa.update(Job)
                .where(*lease_is_valid(lease))
                .values(heartbeat=Job.heartbeat + 1)
                .returning(col(Job.status))
                .execution_options(synchronize_session=False)
            )
            status = session.execute(statement).scalar_one_or_none()
            if status is None:
                raise lease_lost(lease)
            worker = (
                sa.update(Worker)
                .where(col(Worker.id) == lease.worker_id)
                .values(last_seen_at=self._store.clock())
                .returning(col(Worker.is_draining), col(Worker.drain_mode))
            )
            must_release = Drain.of(*session.execute(worker).one()) is Drain.HAND_BACK
            command = COMMANDS[JobStatus(status)]
            return WorkerCommand.DRAIN if command is WorkerCommand.NONE and must_release else command

    def record_events(self, lease: Lease, events: Sequence[engine_events.Event], *, write: int | None = None) -> None:
        """Record events of the engine. `write`: number of the call, as in the module's docstring. LeaseLost."""
        batch = aggregate(events)
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            if not _is_new(session, lease, write):
                return
            self._store.append_events(session, job, *batch.events)
            columns = batch.columns | {"num_warnings": job.num_warnings + batch.num_warnings}
            if "progress" in columns:  # an engine of another version may divide the run differently
                columns["progress"] = max(job.progress, columns["progress"])
            if batch.losses:
                columns["losses"] = job.losses | batch.losses
            session.execute(sa.update(Job).where(*lease_is_valid(lease)).values(**columns))
            upsert_metrics(session, lease.job_number, batch.metrics)
            write_evaluations(session, lease.job_number, batch.evaluations, self._store.clock())
            write_quality(session, lease.job_number, batch.quality, self._store.clock())
            unused = remove_unreferenced(session, lease.job_number) if batch.evaluations else ()
            self._record_throughput(session, lease, batch)
        self._delete_files(unused)

    @staticmethod
    def _record_throughput(session: Session, lease: Lease, batch: EventBatch) -> None:
        """Record the attempt's throughput, for estimates of other jobs."""
        throughput: dict[str, Any] = {}
        if (step_seconds := batch.columns.get("step_seconds")) is not None:
            throughput["step_seconds"] = step_seconds
        if batch.stage_seconds:
            before = session.execute(sa.select(col(Attempt.stage_seconds)).where(*attempt_of(lease))).scalar_one()
            throughput["stage_seconds"] = (before or {}) | batch.stage_seconds
        if throughput:
            session.execute(sa.update(Attempt).where(*attempt_of(lease)).values(**throughput))

    def publish_preview(
        self, lease: Lease, preview: engine_events.PreviewReady, files: PreviewFiles, *, write: int | None = None
    ) -> None:
        """Publish the stored files of a preview. LeaseLost."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            if not _is_new(session, lease, write):
                return
            event = write_preview(session, job, preview, files, self._store.clock())
            self._store.append_events(session, job, event)
            unused = remove_unreferenced(session, lease.job_number)
        self._delete_files(unused)

    def record_engine_process(self, lease: Lease, pid: int, started_at: float) -> None:
        """Record the attempt's engine process; the next attempt ends it if it outlives its worker. LeaseLost."""
        with self._lease_session(lease) as session:
            self._leased_job(session, lease)
            statement = sa.update(Attempt).where(*attempt_of(lease))
            session.execute(statement.values(engine_pid=pid, engine_started_at=started_at))

    def provenance(self, lease: Lease) -> Provenance:
        """Origin of the job's recordings, for the voice's card."""
        with read_session(self._store.engine) as session:
            consent = session.get(JobConsent, lease.job_number)
            dataset = session.get(Dataset, lease.dataset_id)
            start_from = session.exec(select(Job.start_from).where(Job.number == lease.job_number)).first()
        return Provenance.model_validate(
            {
                "job_id": lease.job_id,
                "dataset": dataset and dataset.name,
                "upload_sha256": dataset and dataset.sha256,
                "start_from": start_from,
                "consent": consent and consent.consent,
            }
        )

    def previous_engine(self, lease: Lease) -> EngineProcess | None:
        """The engine process of the last attempt before this one, which may still run; None when there was none."""
        with read_session(self._store.engine) as session:
            query = (
                select(Attempt, Worker)
                .where(
                    Attempt.job_number == lease.job_number,
                    col(Attempt.token) < lease.token,
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

    def publish_artifact(
        self, lease: Lease, kind: str, name: str, path: str, size: int, sha256: str, *, write: int | None = None
    ) -> None:
        """Publish a stored file for download, replacing one of the same name. `path` as in `StoredFile`. LeaseLost."""
        now = self._store.clock()
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            if not _is_new(session, lease, write):
                return
            add_stored_files(session, job, [StoredFile(path, size, sha256)], now)
            same_name = (col(Artifact.job_number) == lease.job_number, col(Artifact.name) == name)
            session.execute(sa.delete(Artifact).where(*same_name))
            data: dict[str, Any] = {"kind": kind, "name": name, "size": size, "sha256": sha256}
            session.add(Artifact(id=new_id("art"), job_number=lease.job_number, path=path, created_at=now, **data))
            self._store.append_events(session, job, NewEvent(EventType.ARTIFACT_PUBLISHED, f"{name} is ready", data))
            session.flush()
            unused = remove_unreferenced(session, lease.job_number)
        self._delete_files(unused)

    def succeed(self, lease: Lease) -> None:
        """End the attempt: the voice is published. Wins over an earlier cancel. LeaseLost, NothingPublished."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            has_voice = sa.select(
                sa.exists().where(col(Artifact.job_number) == job.number, col(Artifact.kind) == "voice")
            )
            if not session.execute(has_voice).scalar_one():
                raise NothingPublished(f"the job {job.id} published no voice; it cannot have succeeded")
            event = NewEvent(EventType.SUCCEEDED, "done")
            self._store.transition(session, job, S.SUCCEEDED, event, progress=1.0, eta_seconds=0.0)

    def fail(self, lease: Lease, code: FailureCode, message: str) -> JobStatus:
        """End the attempt after a failure: the job is retried when that can help, or fails. LeaseLost.

        Returns the new status of the job.
        """
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            columns: JobColumns = {"failures": job.failures + 1}
            data = {"code": str(code)}
            if job.status == S.CANCELLING:
                self._store.transition(session, job, S.CANCELLED, _cancelled(), **columns)
            elif job.status == S.PAUSING and code.retryable:
                event = NewEvent(EventType.PAUSED, f"paused after a failure: {message}", data, "warning")
                self._store.transition(session, job, S.PAUSED, event, **columns)
            elif code.retryable and job.failures + 1 < job.max_attempts:
                delay = self._retry_delay(job.failures)
                event = NewEvent(EventType.RETRYING, f"{message}; trying again in {delay:.0f} s", data, "warning")
                columns["not_before"] = self._store.clock() + timedelta(seconds=delay)
                self._store.transition(session, job, S.QUEUED, event, **columns)
            else:
                self._store.fail(session, job, code, message, **columns)
            return JobStatus(job.status)

    def release(self, lease: Lease, reason: str) -> JobStatus:
        """End the attempt after a requested stop; no failure is counted. LeaseLost. Returns the new status."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            if not self._complete_stop(session, job):
                event = NewEvent(EventType.QUEUED, f"back in the queue: {reason}")
                self._store.transition(session, job, S.QUEUED, event)
            return JobStatus(job.status)

    def active_leases(self) -> Sequence[ActiveLease]:
        """The active leases."""
        with read_session(self._store.engine) as session:
            query = select(Job.id, Job.token, Job.heartbeat).where(IS_LEASED)
            return [ActiveLease(*row) for row in session.exec(query).all()]

    def requeue_lost(self, lease: ActiveLease) -> JobStatus | None:
        """End the lease of a lost worker; returns the job's new status, or None after a newer heartbeat."""
        with write_session(self._store.engine) as session:
            query = select(Job).where(
                Job.id == lease.id,
                Job.token == lease.token,
                Job.heartbeat == lease.heartbeat,
                col(Job.status).in_(LEASED_STATUSES),
            )
            job = session.exec(query.with_for_update()).first()
            if job is None:
                return None
            self._requeue(session, job, "the worker stopped responding", LAPSED)
            return JobStatus(job.status)

    def requeue_worker(self, worker_id: str) -> Sequence[str]:
        """End the leases of a worker whose process has ended; returns the ids of its jobs. Counted as recoveries."""
        with write_session(self._store.engine) as session:
            query = select(Job).where(Job.worker_id == worker_id, col(Job.status).in_(LEASED_STATUSES))
            jobs = session.exec(query.with_for_update()).all()
            for job in jobs:
                self._requeue(session, job, "the worker's process ended")
            return [job.id for job in jobs]

    def _requeue(self, session: Session, job: Job, reason: str, message: str = CONTINUES) -> None:
        """End the attempt of a lost worker. `message`: of the job's return to the queue, and of the attempt."""
        event = NewEvent(EventType.WORKER_LOST, reason, {"worker_id": job.worker_id}, "warning")
        self._store.append_events(session, job, event)
        enqueue_deliveries(session, job, EventType.WORKER_LOST, self._store.clock())
        failure = f"the job lost its worker {job.recoveries + 1} times; look at the workers' logs and memory"
        back = NewEvent(EventType.QUEUED, message)
        self._recover(session, job, back, (FailureCode.WORKER_LOST, failure))

    def hand_back(self, lease: Lease, code: FailureCode, message: str) -> JobStatus:
        """End the attempt after an error of the worker, not of the job: a recovery is counted, no failure. LeaseLost.

        `code` and `message` are those of the job's failure after too many recoveries. Returns the new status.
        """
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            delay = self._retry_delay(job.recoveries)
            data = {"code": str(code)}
            event = NewEvent(EventType.RETRYING, f"{message}; trying again in {delay:.0f} s", data, "warning")
            self._recover(session, job, event, (code, message), delay)
            return JobStatus(job.status)

    def _recover(
        self, session: Session, job: Job, event: NewEvent, failure: tuple[FailureCode, str], delay: float = 0
    ) -> None:
        """End an attempt that neither succeeded nor failed: requeue the job with `event`, or fail it as `failure`.

        `delay` is in seconds.
        """
        columns: JobColumns = {"recoveries": job.recoveries + 1}
        if self._complete_stop(session, job, outcome="lost", **columns):
            return
        if job.recoveries >= self._max_recoveries:
            self._store.fail(session, job, *failure, outcome="lost", **columns)
            return
        columns["not_before"] = self._store.clock() + timedelta(seconds=delay) if delay else AT_ONCE
        self._store.transition(session, job, S.QUEUED, event, outcome="lost", **columns)

    def _retry_delay(self, num_earlier: int) -> float:
        """Seconds before the next attempt, doubled for each earlier one."""
        return min(self._retry_delay_seconds * 2.0 ** min(num_earlier, 20), LONGEST_RETRY_DELAY.total_seconds())

    def _complete_stop(
        self, session: Session, job: Job, *, outcome: str | None = None, **columns: Unpack[JobColumns]
    ) -> bool:
        """Complete a requested cancel or pause at the end of the attempt; False when neither was requested."""
        if job.status == S.CANCELLING:
            self._store.transition(session, job, S.CANCELLED, _cancelled(), outcome=outcome, **columns)
        elif job.status == S.PAUSING:
            event = NewEvent(EventType.PAUSED, "paused")
            self._store.transition(session, job, S.PAUSED, event, outcome=outcome, **columns)
        else:
            return False
        return True

    def _delete_files(self, paths: Iterable[str]) -> None:
        """Delete files whose rows are gone. A crash before it leaves orphans."""
        if self._storage is not None:
            self._storage.delete_files(paths)

    @contextmanager
    def _lease_session(self, lease: Lease) -> Iterator[Session]:
        """A transaction under a lease; a write under an invalid one is refused, and counted in its attempt."""
        try:
            with write_session(self._store.engine) as session:
                yield session
        except LeaseLost:
            with write_session(self._store.engine) as session:
                one_more = sa.update(Attempt).where(*attempt_of(lease)).values(stale_writes=Attempt.stale_writes + 1)
                session.execute(one_more.execution_options(synchronize_session=False))
            raise

    def _leased_job(self, session: Session, lease: Lease) -> Job:
        job = session.exec(select(Job).where(*lease_is_valid(lease)).with_for_update()).first()
        if job is None:
            raise lease_lost(lease)
        return job


def _is_new(session: Session, lease: Lease, write: int | None) -> bool:
    """Count a numbered write under the lease; False when its transaction was committed before, without an answer."""
    if write is None:
        return True
    counted = sa.update(Attempt).where(*attempt_of(lease), col(Attempt.last_write) < write).values(last_write=write)
    return session.connection().execute(counted).rowcount == 1


def _cancelled() -> NewEvent:
    return NewEvent(EventType.CANCELLED, "cancelled")
