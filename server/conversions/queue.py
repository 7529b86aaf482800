"""The queue of conversions: claims of workers, and all changes of a conversion's row after its submission.

A claim raises the row's token, and each write of a worker names it: a worker that stalled cannot write once its
conversion has been given to another. Each call is one transaction. Nothing is decided by comparing two clocks; the
reaper (`server.jobs.reaper`) observes the heartbeats of both kinds of leases.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.conversion.voice_files import VoiceFiles
from rvc_train.schemas.voices.conversions import (
    ConversionEventType,
    ConversionFailure,
    ConversionOptions,
    ConversionStatus,
)
from server.auth.quotas import record_spent_hours
from server.conversions.voice_files import voice_files
from server.database.engine import read_session, require_schema, write_session
from server.database.tables import Conversion, Job, Worker
from server.errors import LeaseLost
from server.job_store.leases import ActiveLease
from server.scheduling.shares import add_gpu_seconds, gpu_seconds
from server.storage.local import Storage, StoredFile

S = ConversionStatus
MAX_RECOVERIES = 1
"""Lost workers after which a conversion waits again; after one more it fails: it may be what ends them."""


@dataclass(frozen=True)
class InputFile:
    """A recording to convert."""

    name: str
    """Name as its owner sent it, for messages."""
    output: str
    """Name of its result."""
    path: Path


@dataclass(frozen=True)
class ConversionLease:
    """A worker's right to one conversion, until the token is replaced."""

    conversion_id: str
    token: int
    worker_id: str
    owner: str
    voice: str
    """The voice's name."""
    job_id: str
    save: str | None
    """`best`, `latest` or the number of a save; None: the finished voice."""
    job_config: dict[str, Any]
    """Training config of the job."""
    files: VoiceFiles
    """The voice's files in the data folder; missing where they are with another worker, or deleted."""
    inputs: Sequence[InputFile]
    options: ConversionOptions
    max_seconds: float
    """Longest recording that is converted."""
    output_folder: Path
    """Folder for the results; it exists, and goes when the conversion is deleted."""


@dataclass(frozen=True)
class ResultFile:
    """Result of one recording: a file in the lease's `output_folder`, or an error."""

    name: str
    """`InputFile.output`."""
    file: StoredFile | None = None
    seconds: float | None = None
    pitch_shift: float | None = None
    """Semitones."""
    error: str | None = None


class ConversionQueue:
    """The queue of one database and one storage, for workers and for the server."""

    def __init__(self, engine: sa.Engine, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._engine, self._storage, self._clock = engine, storage, clock

    def has_waiting(self) -> bool:
        """Whether a conversion waits: a read, which idle workers can afford more often than a claim."""
        query = select(Conversion.number).where(Conversion.status == S.WAITING).limit(1)
        with read_session(self._engine) as session:
            return session.exec(query).first() is not None

    def claim(self, worker_id: str) -> ConversionLease | None:
        """Claim the oldest conversion of the owner with the least GPU time; None when none waits or the worker drains.

        The folder of results is created before the commit, so that a deletion, which waits for that, finds it. Raises
        OSError, without a claim, when that fails; SchemaChanged when the schema is not this program's.
        """
        with write_session(self._engine) as session:
            require_schema(session)
            number = self._next(session, worker_id)
            if number is None:
                return None
            row = session.exec(select(Conversion).where(Conversion.number == number)).one()
            add_event(row, ConversionEventType.STARTED, "the conversion has started", self._clock())
            job = session.exec(select(Job).where(Job.id == row.job_id)).one()
            lease = self._lease(session, row, job, worker_id)
            lease.output_folder.mkdir(parents=True, exist_ok=True)
            return lease

    def find(self, conversion_id: str, token: int) -> tuple[ConversionLease | None, bool]:
        """The lease under a token, None for a conversion that was deleted; and whether it is held still."""
        with read_session(self._engine) as session:
            row = session.exec(select(Conversion).where(Conversion.id == conversion_id)).first()
            job = None if row is None else session.exec(select(Job).where(Job.id == row.job_id)).first()
            if row is None or job is None:
                return None, False
            folder = self._storage.conversion_output(row.id, token)
            lease = replace(self._lease(session, row, job, row.worker_id or ""), token=token, output_folder=folder)
            return lease, row.token == token and row.status == S.RUNNING

    def count_waiting(self, limit: int) -> int:
        """Number of conversions that wait, up to a limit."""
        waiting = sa.select(sa.literal(1)).where(col(Conversion.status) == S.WAITING).limit(limit)
        with read_session(self._engine) as session:
            number: int = session.execute(sa.select(sa.func.count()).select_from(waiting.subquery())).scalar_one()
            return number

    def _next(self, session: Session, worker_id: str) -> int | None:
        """Number of the conversion that was claimed now."""
        now, is_waiting = self._clock(), col(Conversion.status) == S.WAITING
        owners = sa.select(col(Conversion.owner), sa.func.min(col(Conversion.number))).where(is_waiting)
        first = {row[0]: row[1] for row in session.execute(owners.group_by(col(Conversion.owner)))}
        seconds = gpu_seconds(session, first, now)
        for owner in sorted(first, key=lambda owner: (seconds[owner], first[owner])):
            number: int | None = session.execute(_claim_statement(worker_id, owner, now)).scalar_one_or_none()
            if number is not None:
                return number
        return None

    def _lease(self, session: Session, row: Conversion, job: Job, worker_id: str) -> ConversionLease:
        return ConversionLease(
            conversion_id=row.id,
            token=row.token,
            worker_id=worker_id,
            owner=row.owner,
            voice=row.voice,
            job_id=row.job_id,
            save=row.save,
            job_config=job.config,
            files=voice_files(session, job, row.save, self._storage),
            inputs=[
                InputFile(each["name"], each["output"], self._storage.resolve(each["path"])) for each in row.inputs
            ],
            options=ConversionOptions.model_validate(row.options),
            max_seconds=row.max_seconds,
            output_folder=self._storage.conversion_output(row.id, row.token),
        )

    def beat(self, lease: ConversionLease, progress: float | None = None) -> bool:
        """Renew a lease; True when the conversion was cancelled or deleted: stop then, and write nothing more.

        `progress`: share that is done. Raises LeaseLost when it was given to another worker.
        """
        values: dict[str, Any] = {"heartbeat": Conversion.heartbeat + 1}
        if progress is not None:
            values["progress"] = min(1.0, max(0.0, progress))
        statement = sa.update(Conversion).where(*_is_held(lease)).values(**values)
        with write_session(self._engine) as session:
            if session.connection().execute(statement).rowcount:
                return False
            row = session.exec(select(Conversion).where(Conversion.id == lease.conversion_id)).first()
            if row is None or row.status == S.CANCELLED:
                return True
            raise _lease_lost(lease)

    def finish(
        self, lease: ConversionLease, results: Sequence[ResultFile], device: str, device_reason: str
    ) -> ConversionStatus:
        """End a conversion with a result for each recording, in their order; returns its status. LeaseLost.

        It has failed when no recording was converted.
        """
        with write_session(self._engine) as session:
            row = self._held(session, lease)
            row.results = [_stored_result(each) for each in results]
            row.size += sum(each.file.size for each in results if each.file is not None)
            row.device, row.device_reason, row.progress = device, device_reason, 1.0
            errors = [each.error for each in results if each.error is not None]
            if len(errors) < len(results):
                self._end(session, row, S.SUCCEEDED, _sentence(len(results), errors))
            else:
                message = errors[0] if len(errors) == 1 else f"none of {len(errors)} recordings: {errors[0]}"
                self._fail(session, row, ConversionFailure.INVALID_RECORDING, message)
            status = ConversionStatus(row.status)
        self._delete_other_results(lease)
        return status

    def fail(self, lease: ConversionLease, code: ConversionFailure, message: str) -> None:
        """End a conversion as failed; `message` is for its owner. LeaseLost."""
        with write_session(self._engine) as session:
            self._fail(session, self._held(session, lease), code, message)
        shutil.rmtree(lease.output_folder, ignore_errors=True)  # what it made so far counts for no one

    def release(self, lease: ConversionLease, reason: str = "its worker stops") -> None:
        """Give a conversion back, for another worker; nothing is counted. LeaseLost."""
        with write_session(self._engine) as session:
            self._requeue(self._held(session, lease), f"waiting again: {reason}")

    def cancel(self, session: Session, row: Conversion) -> bool:
        """Cancel a conversion in the caller's transaction, which has locked its row; False when it has ended.

        The next heartbeat of its worker returns that.
        """
        if ConversionStatus(row.status).is_terminal:
            return False
        self._end(session, row, S.CANCELLED, "cancelled")
        return True

    def active_leases(self) -> Sequence[ActiveLease]:
        """The active leases."""
        query = select(Conversion.id, Conversion.token, Conversion.heartbeat).where(Conversion.status == S.RUNNING)
        with read_session(self._engine) as session:
            return [ActiveLease(*row) for row in session.exec(query).all()]

    def requeue_lost(self, lease: ActiveLease) -> ConversionStatus | None:
        """End the lease of a lost worker; returns the new status, or None after a newer heartbeat."""
        query = select(Conversion).where(
            Conversion.id == lease.id,
            Conversion.token == lease.token,
            Conversion.heartbeat == lease.heartbeat,
            Conversion.status == S.RUNNING,
        )
        with write_session(self._engine) as session:
            row = session.exec(query.with_for_update()).first()
            if row is None:
                return None
            self._recover(session, row, "its worker stopped responding")
            return ConversionStatus(row.status)

    def requeue_worker(self, worker_id: str) -> Sequence[str]:
        """End the leases of a worker whose process has ended; returns the ids of its conversions."""
        query = select(Conversion).where(Conversion.worker_id == worker_id, Conversion.status == S.RUNNING)
        with write_session(self._engine) as session:
            rows = session.exec(query.with_for_update()).all()
            for row in rows:
                self._recover(session, row, "its worker's process ended")
            return [row.id for row in rows]

    def _recover(self, session: Session, row: Conversion, reason: str) -> None:
        row.recoveries += 1
        if row.recoveries > MAX_RECOVERIES:
            message = f"{reason}, for the second time; the server's administrator finds the cause in the workers' logs"
            self._fail(session, row, ConversionFailure.WORKER_LOST, message)
        else:
            self._requeue(row, f"waiting again: {reason}")

    def _requeue(self, row: Conversion, message: str) -> None:
        row.status, row.worker_id, row.progress = S.WAITING, None, 0.0
        row.token += 1  # before the next claim: what the worker still writes is refused
        add_event(row, ConversionEventType.REQUEUED, message, self._clock())

    def _fail(self, session: Session, row: Conversion, code: ConversionFailure, message: str) -> None:
        row.error_code, row.error_message = code, message
        self._end(session, row, S.FAILED, message)

    def _end(self, session: Session, row: Conversion, status: ConversionStatus, message: str) -> None:
        now, started = self._clock(), row.started_at if row.status == S.RUNNING else None
        row.status, row.worker_id, row.finished_at = status, None, now
        add_event(row, ConversionEventType(status), message, now)
        if started is not None:  # last, because it flushes the row
            record_spent_hours(session, row.owner, started, now)
            add_gpu_seconds(session, row.owner, (now - started).total_seconds(), now)

    @staticmethod
    def _held(session: Session, lease: ConversionLease) -> Conversion:
        row = session.exec(select(Conversion).where(*_is_held(lease)).with_for_update()).first()
        if row is None:
            raise _lease_lost(lease)
        return row

    def _delete_other_results(self, lease: ConversionLease) -> None:
        """Delete what earlier attempts have left."""
        for folder in lease.output_folder.parent.glob("[0-9]*"):
            if folder != lease.output_folder:
                shutil.rmtree(folder, ignore_errors=True)


def add_event(row: Conversion, kind: ConversionEventType, message: str, now: datetime) -> None:
    """Append an event to a conversion's; in a transaction that has locked its row."""
    row.events = [*row.events, {"type": kind, "message": message, "created_at": now.isoformat()}]


def conversions_of(session: Session, job_id: str) -> Sequence[str]:
    """Ids of a job's conversions, whose rows go with the job's."""
    return session.exec(select(Conversion.id).where(Conversion.job_id == job_id)).all()


def _claim_statement(worker_id: str, owner: str, now: datetime) -> sa.Executable:
    may_claim = sa.exists().where(
        col(Worker.id) == worker_id, ~col(Worker.is_draining), col(Worker.stopped_at).is_(None)
    )
    oldest = (
        sa.select(col(Conversion.number))
        .where(col(Conversion.status) == S.WAITING, col(Conversion.owner) == owner, may_claim)
        .order_by(col(Conversion.number))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(Conversion)
        .where(col(Conversion.number) == oldest.scalar_subquery())
        .values(
            status=S.RUNNING,
            token=Conversion.token + 1,
            heartbeat=Conversion.heartbeat + 1,
            worker_id=worker_id,
            started_at=now,
        )
        .returning(col(Conversion.number))
        .execution_options(synchronize_session=False)
    )


def _is_held(lease: ConversionLease) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions that every write of a worker ends with."""
    return (
        col(Conversion.id) == lease.conversion_id,
        col(Conversion.token) == lease.token,
        col(Conversion.status) == S.RUNNING,
    )


def _lease_lost(lease: ConversionLease) -> LeaseLost:
    return LeaseLost(f"the lease {lease.token} on the conversion {lease.conversion_id} has ended or was replaced")


def _stored_result(result: ResultFile) -> dict[str, Any]:
    file = result.file
    return {
        "name": result.name,
        "path": None if file is None else file.path,
        "bytes": None if file is None else file.size,
        "sha256": None if file is None else file.sha256,
        "seconds": result.seconds,
        "pitch_shift": result.pitch_shift,
        "error": result.error,
    }


def _sentence(num_recordings: int, errors: Sequence[str]) -> str:
    if not errors:
        return "done"
    return f"done; {len(errors)} of {num_recordings} recordings could not be converted: {errors[0]}"
