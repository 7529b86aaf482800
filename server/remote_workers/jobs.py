"""Leases on jobs of workers on other machines: found by their id and key, with the files that they read and send."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col, select

from rvc_engine.checkpoints.manifest import CheckpointEntry, read_entries
from rvc_engine.errors import ArtifactInvalid, IncompatibleCheckpoint
from rvc_engine.events import ArtifactReady, Event, PreviewReady, parse_event
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from rvc_train.schemas.work.leases import (
    CheckpointCommit,
    CheckpointRow,
    EventsReport,
    OutcomeReport,
    StoredCheckpoints,
    WorkInputs,
)
from rvc_train.schemas.work.queue import WaitingJob
from rvc_train.schemas.work.workers import EngineBefore, LeasedJob, WorkFile
from server.database.engine import read_session
from server.database.tables import Attempt, Job
from server.errors import CheckpointsDamaged, LeaseLost, NotFound, Refused
from server.job_store.leases import Lease, lease_lost, lease_of
from server.jobs.recording import record_batch
from server.jobs.service import JobService
from server.remote_workers.files import FileHashes, IncomingFiles, plain_file
from server.remote_workers.keys import WorkerKeys
from server.remote_workers.log import LogAppender
from server.remote_workers.queue import waiting_jobs
from server.results.checkpoints import BEST, EVALUATIONS, OTHERS, CorruptCheckpoint, StoredRun
from server.results.checkpoints import StoredCheckpoints as JobCheckpoints
from server.scheduling.queue import IS_QUEUED
from server.storage.local import ARTIFACTS, ORIGIN_FILE, Storage, StoredFile

GONE = "the job was deleted"


@dataclass(frozen=True)
class HeldJob:
    """A lease whose key was shown."""

    lease: Lease
    is_valid: bool
    """Whether it holds still."""
    may_go_on: bool
    """Whether the job may still be continued, by whichever worker: what is stored of it has a use."""

    def require_valid(self) -> Lease:
        """The lease. LeaseLost for one that holds no longer."""
        if not self.is_valid:
            raise lease_lost(self.lease)
        return self.lease


class RemoteJobs:
    """Requests of workers on other machines under leases on jobs."""

    def __init__(self, jobs: JobService, storage: Storage, keys: WorkerKeys, hashes: FileHashes) -> None:
        self._jobs, self._storage, self._keys, self._hashes = jobs, storage, keys, hashes
        self._log = LogAppender()

    def count_due(self, limit: int) -> int:
        """Number of queued jobs that are due, up to a limit. Cheap: idle workers ask for it all the time."""
        is_due = sa.select(sa.literal(1)).where(IS_QUEUED, col(Job.not_before) <= self._jobs.clock()).limit(limit)
        with read_session(self._jobs.engine) as session:
            number: int = session.execute(sa.select(sa.func.count()).select_from(is_due.subquery())).scalar_one()
            return number

    def waiting(self, limit: int) -> list[WaitingJob]:
        """The first queued jobs that are due, and what they need."""
        with read_session(self._jobs.engine) as session:
            return waiting_jobs(session, self._jobs.clock(), limit)

    def claim(self, worker_id: str, *, is_repeated: bool, job_id: str | None) -> LeasedJob | None:
        """Claim the next job. SchemaChanged, OSError."""
        lease = self._jobs.claim(worker_id, is_repeated=is_repeated, job_id=job_id)
        if lease is None:
            return None
        previous = self._jobs.previous_engine(lease)
        lease_id = f"{lease.job_id}.{lease.token}"
        return LeasedJob(
            lease_id=lease_id,
            key=self._keys.key_of(lease_id),
            job_id=lease.job_id,
            token=lease.token,
            attempt=lease.attempt,
            voice=lease.voice,
            config=lease.config.model_dump(mode="json"),
            max_duration_seconds=lease.max_duration_seconds,
            step_seconds=lease.step_seconds,
            previous_engine=previous
            and EngineBefore(pid=previous.pid, started_at=previous.started_at, host=previous.host),
        )

    def find_live(self, lease_id: str, key: str) -> HeldJob:
        """As `find`, for requests of a worker that runs the job: one that was cut off gets its lease back."""
        held = self.find(lease_id, key)
        is_back = not held.is_valid and held.may_go_on and self._jobs.regain(held.lease)
        return replace(held, is_valid=True) if is_back else held

    def find(self, lease_id: str, key: str) -> HeldJob:
        """The lease of an id. NotFound for a wrong key, LeaseLost for a job that was deleted."""
        self._keys.check(lease_id, key)
        job_id, _, token = lease_id.rpartition(".")
        with read_session(self._jobs.engine) as session:
            found = _find(session, job_id, int(token))
        if found is None:
            raise LeaseLost(GONE)
        job, attempt = found
        try:
            lease = replace(lease_of(job, attempt.worker_id), token=attempt.token, attempt=attempt.attempt)
        except ValidationError as error:
            raise LeaseLost("the job's config does not fit the server's version any more") from error
        is_newest = job.token == attempt.token
        status = JobStatus(job.status)
        return HeldJob(lease, is_newest and status in LEASED_STATUSES, not status.is_terminal)

    # Files

    def inputs(self, held: HeldJob) -> WorkInputs:
        """Lists of the files that the engine reads."""
        lease, storage = held.require_valid(), self._storage
        storage.delete_partial_files(lease.job_id, lease.token)
        folder = storage.recordings(lease.dataset_id)
        recordings = [self._hashes.describe(path, path.name) for path in _plain_files(folder)]
        start = [path for path in storage.start_files(lease.job_id) if path is not None]
        origin = storage.start_folder(lease.job_id) / ORIGIN_FILE
        return WorkInputs(
            dataset_id=lease.dataset_id,
            provenance=self._jobs.provenance(lease).model_dump(mode="json"),
            recordings=recordings,
            start=[self._hashes.describe(path, path.name) for path in start],
            start_origin=origin.read_text(encoding="utf-8") if start else None,
        )

    def recording(self, held: HeldJob, name: str) -> Path:
        """A recording of the job's dataset. NotFound."""
        return plain_file(self._storage.recordings(held.require_valid().dataset_id), name)

    def start_file(self, held: HeldJob, name: str) -> Path:
        """A file that the training starts from. NotFound."""
        if not name.endswith(".pth"):
            raise NotFound("there is no such file to start from")
        return plain_file(self._storage.start_folder(held.require_valid().job_id), name)

    def describe(self, path: Path) -> WorkFile:
        """Name, size and sha256 of a file that does not change."""
        return self._hashes.describe(path, path.name)

    def incoming(self, held: HeldJob) -> IncomingFiles:
        """The files that are sent under this lease. LeaseLost when they have no use any more."""
        if not held.may_go_on:
            raise lease_lost(held.lease)
        return IncomingFiles(self._attempt_folder(held))

    def received(self, held: HeldJob, sha256: str) -> tuple[int, bool]:
        """Bytes that the server has of a file, and whether it is complete. Also of one that was recorded."""
        incoming = self.incoming(held)
        received = incoming.received(sha256)
        recorded = self._attempt_folder(held) / ARTIFACTS / sha256
        if recorded.is_file():
            return recorded.stat().st_size, True
        return received, incoming.is_complete(sha256)

    def _attempt_folder(self, held: HeldJob) -> Path:
        return self._storage.attempt_folder(held.lease.job_id, held.lease.token)

    # Checkpoints

    def checkpoints(self, held: HeldJob) -> StoredCheckpoints:
        """The newest checkpoints. CheckpointsDamaged."""
        run = self._run(held)
        if run is None:
            return StoredCheckpoints(token=None, checkpoints=[], others=[])
        others = [run.folder / name for name in sorted(OTHERS) if (run.folder / name).is_file()]
        rows = [CheckpointRow.model_validate(entry.__dict__) for entry in run.entries]
        return StoredCheckpoints(token=run.token, checkpoints=rows, others=[self.describe(path) for path in others])

    def checkpoint_file(self, held: HeldJob, name: str) -> WorkFile:
        """A file of the newest checkpoints, as the record of them has it. NotFound."""
        run = self._run(held)
        if run is None:
            raise NotFound("the job has no stored checkpoint")
        for entry in run.entries:
            if entry.file == name:
                return WorkFile(name=name, size_bytes=plain_file(run.folder, name).stat().st_size, sha256=entry.sha256)
        if name not in OTHERS:
            raise NotFound("there is no such file of a checkpoint")
        return self.describe(plain_file(run.folder, name))

    def checkpoint_path(self, held: HeldJob, name: str) -> Path:
        """Path of such a file. NotFound."""
        run = self._run(held)
        if run is None:
            raise NotFound("the job has no stored checkpoint")
        return plain_file(run.folder, name)

    def _run(self, held: HeldJob) -> StoredRun | None:
        job_id = held.require_valid().job_id
        try:
            return JobCheckpoints(self._storage, job_id).latest()
        except IncompatibleCheckpoint as error:
            raise CheckpointsDamaged(str(error)) from error

    def store_checkpoint(self, held: HeldJob, commit: CheckpointCommit) -> None:
        """Store a checkpoint whose files were sent; a stale worker's too, which is a good one of the same run."""
        incoming, row = self.incoming(held), commit.checkpoint
        entry = CheckpointEntry(row.file, row.step, row.epoch, row.size, row.sha256)
        stored = JobCheckpoints(self._storage, held.lease.job_id)
        named = {BEST: commit.best, EVALUATIONS: commit.evaluations}
        try:
            if entry in read_entries(self._storage.checkpoints(held.lease.job_id, held.lease.token)):
                return
            files = {name: incoming.complete(sha256) for name, sha256 in named.items() if sha256 is not None}
            source = incoming.complete(row.sha256)
            stored.store(held.lease.token, entry, source, files)
        except FileNotFoundError as error:
            raise LeaseLost(GONE) from error
        except CorruptCheckpoint as error:
            raise Refused(str(error), "/checkpoint") from error
        except IncompatibleCheckpoint as error:
            raise CheckpointsDamaged(str(error)) from error
        for path in (source, *files.values()):
            path.unlink(missing_ok=True)

    # Reports

    def record(self, held: HeldJob, report: EventsReport) -> None:
        """Record a batch of events. LeaseLost, Conflict for a file that was not sent, Refused."""
        events = [_checked(parse_event(json.dumps(event))) for event in report.events]
        names_files = [isinstance(event, ArtifactReady | PreviewReady) for event in events]
        if any(names_files) and len(events) > 1:
            raise Refused("an event that names files stands alone in its batch; send it by itself", "/events")
        incoming, lease = self.incoming(held), held.lease

        def store(sha256: str, name: str | None) -> StoredFile:
            is_new = incoming.is_complete(sha256)  # which takes nothing but a sha256
            recorded = self._attempt_folder(held) / ARTIFACTS / sha256
            source = incoming.complete(sha256) if is_new or not recorded.is_file() else recorded
            return self._storage.take_artifact(lease.job_id, lease.token, source, sha256, name)

        if any(names_files):
            held.require_valid()
        try:
            record_batch(self._jobs, lease, events, report.number, store)
        except ArtifactInvalid as error:
            raise Refused(str(error), "/events/0") from error

    def append_log(self, held: HeldJob, offset: int, text: str) -> None:
        """Append lines to the job's log; those of a stale worker too. LeaseLost for a job that was deleted."""
        self._log.append(
            self._storage.fetch(self._storage.job_log(held.lease.job_id)), self._attempt_folder(held), offset, text
        )

    def finish(self, held: HeldJob, report: OutcomeReport) -> JobStatus:
        """End the attempt; returns the job's new status. LeaseLost."""
        lease = held.lease
        finish: dict[str, Callable[[], JobStatus]] = {
            "released": lambda: self._jobs.release(lease, report.message),
            "failure": lambda: self._jobs.fail(lease, report.code, report.message),
            "worker_fault": lambda: self._jobs.hand_back(lease, report.code, report.message),
        }
        if report.outcome == "success":
            self._jobs.succeed(lease)
            return JobStatus.SUCCEEDED
        return finish[report.outcome]()


def _find(session: Session, job_id: str, token: int) -> tuple[Job, Attempt] | None:
    query = select(Job, Attempt).where(Job.id == job_id, Attempt.job_number == Job.number, Attempt.token == token)
    return session.exec(query).first()


def _plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _checked(event: Event) -> Event:
    """An event whose names can be those of files. Refused."""
    if isinstance(event, ArtifactReady):
        name = event.name
        is_plain = name.isprintable() and not set(name) & set("/\\") and name not in {"", ".", ".."}
        if not is_plain or len(name.encode()) > 255:
            raise Refused("the name of the artifact is not one of a file; give another", "/events/0/name")
    return event
