"""Writes of workers: taking a lease, and everything under it until the attempt's end.

A worker's call presents its lease and is refused with LeaseLost when the token was replaced or the job has ended.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col, select

from rvc_engine import events as engine_events
from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import JobStatus
from server.database.engine import read_session, write_session
from server.database.tables import Artifact, Attempt, Job, Worker, new_id
from server.errors import LeaseLost, NothingPublished
from server.job_store.base import JobStore
from server.job_store.events import EventBatch, NewEvent, aggregate
from server.job_store.leases import (
    COMMANDS,
    LONGEST_RETRY_DELAY,
    Drain,
    EngineProcess,
    Lease,
    WorkerCommand,
    attempt_of,
    claim_statement,
    lease_is_valid,
    lease_lost,
    lease_of,
)
from server.job_store.transitions import upsert_metrics
from server.results.evaluations import PreviewFiles, write_evaluations, write_preview
from server.webhooks.service import enqueue_deliveries

S = JobStatus


class LeaseOperations(JobStore):
    """Operations of workers on jobs, under a lease."""

    def claim(self, worker_id: str) -> Lease | None:
        """Take the next job: by priority, then by order of submission. None when nothing waits."""
        while True:
            with write_session(self.engine) as session:
                number = session.execute(claim_statement(worker_id, self._clock())).scalar_one_or_none()
                if number is None:
                    return None
                job = session.exec(select(Job).where(Job.number == number)).one()
                worker = session.get_one(Worker, worker_id)
                data = {"worker_id": worker_id, "device": worker.device}
                self._transitions.append_events(
                    session, job, NewEvent(EventType.STARTED, f"attempt {job.claims} started", data)
                )
                enqueue_deliveries(session, job, EventType.STARTED, self._clock())
                attempt = Attempt(
                    job_number=number,
                    attempt=job.claims,
                    token=job.token,
                    worker_id=worker_id,
                    started_at=self._clock(),
                    device=worker.device,
                    device_name=worker.device_name,
                )
                session.add(attempt)
                session.flush()
                try:
                    return lease_of(job, worker_id)
                except ValidationError as error:  # an older server's config that this one no longer takes
                    message = f"the job's config does not fit this version: {error.errors()[0]['msg']}; submit it anew"
                    self._transitions.fail(session, job, FailureCode.INVALID_CONFIG, message)

    def heartbeat(self, lease: Lease) -> WorkerCommand:
        """Renew the lease; the command for its worker. LeaseLost."""
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
                .values(last_seen_at=self._clock())
                .returning(col(Worker.is_draining), col(Worker.drain_mode))
            )
            must_release = Drain.of(*session.execute(worker).one()) is Drain.HAND_BACK
            command = COMMANDS[JobStatus(status)]
            return WorkerCommand.DRAIN if command is WorkerCommand.NONE and must_release else command

    def record_events(self, lease: Lease, events: Sequence[engine_events.Event]) -> None:
        """Record events of the engine. LeaseLost."""
        batch = aggregate(events)
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            self._transitions.append_events(session, job, *batch.events)
            columns = batch.columns | {"num_warnings": job.num_warnings + batch.num_warnings}
            if batch.losses:
                columns["losses"] = job.losses | batch.losses
            session.execute(sa.update(Job).where(*lease_is_valid(lease)).values(**columns))
            upsert_metrics(session, lease.job_number, batch.metrics)
            write_evaluations(session, lease.job_number, batch.evaluations, self._clock())
            self._record_throughput(session, lease, batch)

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

    def publish_preview(self, lease: Lease, preview: engine_events.PreviewReady, files: PreviewFiles) -> None:
        """Offer the stored files of a preview. LeaseLost."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            entry = write_preview(session, lease.job_id, lease.job_number, preview, files, self._clock())
            self._transitions.append_events(session, job, entry)

    def record_engine_process(self, lease: Lease, pid: int, started_at: float) -> None:
        """Record the attempt's engine, so that a successor can end it should it outlive its worker. LeaseLost."""
        with self._lease_session(lease) as session:
            self._leased_job(session, lease)
            statement = sa.update(Attempt).where(*attempt_of(lease))
            session.execute(statement.values(engine_pid=pid, engine_started_at=started_at))

    def previous_engine(self, lease: Lease) -> EngineProcess | None:
        """The last engine that an earlier attempt at the job ran; it may still live."""
        with read_session(self.engine) as session:
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

    def publish_artifact(self, lease: Lease, kind: str, name: str, path: str, size: int, sha256: str) -> None:
        """Offer a stored file for download; a file of the same name is replaced. `path` as `StoredFile`. LeaseLost."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            named = (col(Artifact.job_number) == lease.job_number, col(Artifact.name) == name)
            session.execute(sa.delete(Artifact).where(*named))
            artifact = Artifact(
                id=new_id("art"),
                job_number=lease.job_number,
                kind=kind,
                name=name,
                path=path,
                size=size,
                sha256=sha256,
                created_at=self._clock(),
            )
            session.add(artifact)
            data = {"kind": kind, "name": name, "size": size, "sha256": sha256}
            self._transitions.append_events(
                session, job, NewEvent(EventType.ARTIFACT_PUBLISHED, f"{name} is ready", data)
            )

    def succeed(self, lease: Lease) -> None:
        """The voice is made and published. Wins over a cancel that came before. LeaseLost, NothingPublished."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            has_voice = sa.select(
                sa.exists().where(col(Artifact.job_number) == job.number, col(Artifact.kind) == "voice")
            )
            if not session.execute(has_voice).scalar_one():
                raise NothingPublished(f"the job {job.id} published no voice; it cannot have succeeded")
            self._transitions.transition(
                session, job, S.SUCCEEDED, NewEvent(EventType.SUCCEEDED, "done"), progress=1.0, eta_seconds=0.0
            )

    def fail(self, lease: Lease, code: FailureCode, message: str) -> JobStatus:
        """The attempt failed: to be tried again where that can help, or the job has failed. LeaseLost.

        Returns what became of the job.
        """
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            failures: dict[str, Any] = {"failures": job.failures + 1}
            data = {"code": str(code)}
            is_retried = code.retryable and job.failures + 1 < job.max_attempts
            if job.status == S.CANCELLING:
                self._transitions.transition(
                    session, job, S.CANCELLED, NewEvent(EventType.CANCELLED, "cancelled"), **failures
                )
            elif job.status == S.PAUSING and code.retryable:
                entry = NewEvent(EventType.PAUSED, f"paused after a failure: {message}", data, "warning")
                self._transitions.transition(session, job, S.PAUSED, entry, **failures)
            elif is_retried:
                delay = min(self._retry_delay_seconds * 2**job.failures, LONGEST_RETRY_DELAY.total_seconds())
                entry = NewEvent(EventType.RETRYING, f"{message}; trying again in {delay:.0f} s", data, "warning")
                not_before = self._clock() + timedelta(seconds=delay)
                self._transitions.transition(session, job, S.QUEUED, entry, not_before=not_before, **failures)
            else:
                self._transitions.fail(session, job, code, message, **failures)
            return JobStatus(job.status)

    def release(self, lease: Lease, reason: str) -> JobStatus:
        """The engine stopped because it was asked to; no failure is counted. LeaseLost. Returns the new status."""
        with self._lease_session(lease) as session:
            job = self._leased_job(session, lease)
            if job.status == S.CANCELLING:
                self._transitions.transition(session, job, S.CANCELLED, NewEvent(EventType.CANCELLED, "cancelled"))
            elif job.status == S.PAUSING:
                self._transitions.transition(session, job, S.PAUSED, NewEvent(EventType.PAUSED, "paused"))
            else:
                self._transitions.transition(
                    session, job, S.QUEUED, NewEvent(EventType.QUEUED, f"back in the queue: {reason}")
                )
            return JobStatus(job.status)

    @contextmanager
    def _lease_session(self, lease: Lease) -> Iterator[Session]:
        """A transaction under a lease; where that is no longer valid, only the refused write is counted."""
        try:
            with write_session(self.engine) as session:
                yield session
        except LeaseLost:
            with write_session(self.engine) as session:
                one_more = sa.update(Attempt).where(*attempt_of(lease)).values(stale_writes=Attempt.stale_writes + 1)
                session.execute(one_more.execution_options(synchronize_session=False))
            raise

    def _leased_job(self, session: Session, lease: Lease) -> Job:
        job = session.exec(select(Job).where(*lease_is_valid(lease)).with_for_update()).first()
        if job is None:
            raise lease_lost(lease)
        return job
