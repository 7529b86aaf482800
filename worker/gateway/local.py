"""The gateway of a worker that shares the server's database and data folder: files stay in their place."""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
import structlog

from rvc_engine.calibration.results import Calibration
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import Event
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from rvc_train.schemas.workers import Drain, GpuPublic
from server.blobs.address import open_blobs
from server.conversions import queue as conversion_queue
from server.conversions.queue import ConversionQueue, ResultFile
from server.database.clock import database_clock, utc_now
from server.database.engine import checkpoint_large_wal, create_engine, database_name, migrate
from server.errors import LeaseLost, NotFound, SettingsRefused, StorageAway
from server.estimates.calibrations import Calibrations
from server.job_store.leases import Lease
from server.jobs.recording import record_batch
from server.jobs.service import JobService
from server.results.checkpoints import CorruptCheckpoint, StoredCheckpoints
from server.settings import database_url_of
from server.storage.instances import check_store, has_store, inspect_pairing, is_joined
from server.storage.local import ORIGIN_FILE, Storage, StoredFile
from server.storage.trash import Trash
from server.transient_errors import first_line, is_database_unavailable
from server.workers.gpu_telemetry import delete_gpu_telemetry, write_gpu_telemetry
from worker.gateway.errors import Unavailable
from worker.gateway.interface import ConversionLease, JobLease, LogSink, RegisteredWorker, WorkerGateway
from worker.gateway.types import (
    Beat,
    ConversionResult,
    Failure,
    Folders,
    JobInputs,
    Outcome,
    PreviousEngine,
    Recording,
    Released,
    StartFiles,
    StoredCheckpoint,
    Success,
    WorkerDescription,
    WorkerFault,
)
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

SECONDS_BETWEEN_WAL_CHECKS = 60
MAX_NETWORK_FOLDER_CHECKS = 90
"""NFS may show a new file a minute late."""


@contextmanager
def unavailable_for_now() -> Iterator[None]:
    """Translate errors of a database or a store that is unavailable for now to Unavailable; others pass through."""
    try:
        yield
    except StorageAway as error:
        raise Unavailable(str(error)) from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        if not is_database_unavailable(error):
            raise
        raise Unavailable(first_line(error)) from error


class LocalGateway(WorkerGateway):
    """A server on the same database and data folder."""

    def __init__(self, settings: WorkerSettings, engine: sa.Engine) -> None:
        """`engine`: on the server's database; `close` closes its connections."""
        self._settings, self._engine = settings, engine
        self._url = database_url_of(settings.data_folder, settings.database_url)
        self._storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
        clock = database_clock(engine)
        self._jobs = JobService(
            engine,
            clock,
            retry_delay_seconds=settings.retry_delay_seconds,
            max_recoveries=settings.max_recoveries,
            storage=self._storage,
        )
        self._conversions = ConversionQueue(engine, self._storage, clock)
        self._calibrations = Calibrations(self._storage)
        self._num_waits = self._num_mismatches = 0
        self._is_over = threading.Event()
        root = self._storage.root
        self.folders = Folders(root, root / "jobs", self._storage.weights_folder)

    @classmethod
    def connect(cls, settings: WorkerSettings) -> "LocalGateway":
        """A gateway with a database engine of its own. Raises SettingsRefused for an address that cannot be used."""
        try:
            return cls(settings, create_engine(database_url_of(settings.data_folder, settings.database_url)))
        except (sa.exc.SQLAlchemyError, ImportError) as error:  # of the database's address or driver
            raise SettingsRefused(first_line(error)) from error

    @unavailable_for_now()
    def open(self) -> str | None:
        """As in the interface: both must have the same id; then the schema is upgraded.

        A worker never makes the id: on a machine where the data folder's disk is not mounted it would write it to an
        empty folder.
        """
        try:
            check_store(self._storage)
            found = inspect_pairing(self._settings.data_folder, self._url)
            if found.is_joined and self._storage.tier is not None and not has_store(self._storage):
                if self._num_waits == 0:
                    logger.info("waiting for the server to begin with RVC_TRAIN_STORAGE_URL")
                self._num_waits += 1
                return None
            if found.is_joined:
                migrate(self._engine)
                threading.Thread(target=self._fold_wal, name="wal", daemon=True).start()
                return found.folder_id
        except sa.exc.DatabaseError as error:
            if is_database_unavailable(error):
                raise
            raise SettingsRefused(
                f"{database_name(self._url)} cannot be used as the database: {first_line(error)}; set "
                "RVC_TRAIN_DATA_FOLDER or RVC_TRAIN_DATABASE_URL to the server's"
            ) from error
        # The server may write the id between the checks of the two, and a network folder may show it later.
        self._num_mismatches = 0 if found.mismatch is None else self._num_mismatches + 1
        if found.mismatch is not None:
            if self._num_mismatches > (MAX_NETWORK_FOLDER_CHECKS if self._num_waits else 1):
                raise SettingsRefused(found.mismatch)
            return None
        if self._num_waits == 0:
            logger.info("waiting for the first start of the server, which makes the id of data folder and database")
        self._num_waits += 1
        return None

    def _fold_wal(self) -> None:
        """Checkpoint a large write-ahead log, which the server does as long as it runs."""
        while not self._is_over.wait(SECONDS_BETWEEN_WAL_CHECKS):
            try:
                checkpoint_large_wal(self._engine)
            except (OSError, sa.exc.SQLAlchemyError, sqlite3.Error) as error:
                logger.warning("the write-ahead log was not checkpointed; it is tried again", reason=first_line(error))

    @unavailable_for_now()
    def register(self, worker: WorkerDescription) -> "LocalWorker":
        worker_id = self._jobs.register_worker(**asdict(worker))
        return LocalWorker(worker_id, worker.heartbeat_seconds, self._jobs, self._conversions, self._storage)

    @unavailable_for_now()
    def requeue_worker(self, worker_id: str) -> Sequence[str]:
        return [*self._conversions.requeue_worker(worker_id), *self._jobs.requeue_worker(worker_id)]

    @unavailable_for_now()
    def statuses(self, job_ids: Collection[str]) -> Mapping[str, JobStatus]:
        """As in the interface: a disk may be unmounted, or the database replaced."""
        if not is_joined(self._engine, self._storage):
            raise Unavailable("data folder and database do not have the same id any more")
        found = {}
        for job_id in job_ids:
            try:
                found[job_id] = JobStatus(self._jobs.get(job_id).status)
            except NotFound:
                continue
        return found

    def lacks_calibration(self, device_name: str, version: str, torch: str | None, num_threads: int) -> bool:
        return self._calibrations.is_missing(device_name, version, torch, num_threads)

    def store_calibration(self, device_name: str, calibration: Calibration) -> None:
        self._calibrations.write(device_name, calibration)

    def close(self) -> None:
        self._is_over.set()
        self._engine.dispose()


class LocalWorker(RegisteredWorker):
    """A row in the registry of workers."""

    def __init__(
        self,
        worker_id: str,
        heartbeat_seconds: float,
        jobs: JobService,
        conversions: ConversionQueue,
        storage: Storage,
    ) -> None:
        self.worker_id, self._heartbeat_seconds = worker_id, heartbeat_seconds
        self._jobs, self._conversions, self._storage = jobs, conversions, storage
        self._drain: Drain | None = None
        self._next_beat = 0.0

    @unavailable_for_now()
    def heartbeat(self, lease: JobLease | None) -> Beat:
        """As in the interface. Beside a lease, whose heartbeat is the worker's too, `drain` is read now and then."""
        if lease is None or time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._heartbeat_seconds
            try:
                self._drain = self._jobs.worker_heartbeat(self.worker_id)
            except NotFound:
                logger.warning("this worker is no longer registered and ends", worker_id=self.worker_id)
                self._drain = Drain.FINISH
        if lease is None:
            return Beat(self._drain)
        assert isinstance(lease, LocalJobLease)  # noqa: S101 - of this worker's claim
        try:
            return Beat(self._drain, self._jobs.heartbeat(lease.lease))
        except LeaseLost as error:
            return Beat(self._drain, lost=str(error))

    @unavailable_for_now()
    def claim(self, *, is_repeated: bool = False, job_id: str | None = None) -> "LocalJobLease | None":
        lease = self._jobs.claim(self.worker_id, is_repeated=is_repeated, job_id=job_id)
        if lease is None:
            return None
        previous = self._jobs.previous_engine(lease)
        return LocalJobLease(
            job_id=lease.job_id,
            token=lease.token,
            attempt=lease.attempt,
            voice=lease.voice,
            config=lease.config,
            max_duration_seconds=lease.max_duration_seconds,
            step_seconds=lease.step_seconds,
            previous_engine=None if previous is None else PreviousEngine(**asdict(previous)),
            attempt_folder=self._storage.attempt_folder(lease.job_id, lease.token),
            lease=lease,
            jobs=self._jobs,
            storage=self._storage,
        )

    @unavailable_for_now()
    def why_never_claimed(self, job_id: str) -> str | None:
        return self._jobs.why_never_claimed(job_id, self.worker_id)

    @unavailable_for_now()
    def claim_conversion(self, *, may_wait: bool = False) -> "LocalConversionLease | None":
        lease = self._conversions.claim(self.worker_id) if self._conversions.has_waiting() else None
        if lease is None:
            return None
        return LocalConversionLease(
            conversion_id=lease.conversion_id,
            token=lease.token,
            voice=lease.voice,
            job_id=lease.job_id,
            save=lease.save,
            job_config=lease.job_config,
            files=lease.files,
            recordings=[Recording(each.output, each.path) for each in lease.inputs],
            options=lease.options,
            max_seconds=lease.max_seconds,
            folder=lease.output_folder,
            lease=lease,
            conversions=self._conversions,
            root=self._storage.root,
        )

    def report_gpus(self, gpus: Sequence[GpuPublic]) -> None:
        write_gpu_telemetry(self._storage, self.worker_id, gpus, utc_now())

    @unavailable_for_now()
    def deregister(self) -> None:
        delete_gpu_telemetry(self._storage, utc_now(), self.worker_id)
        self._jobs.deregister_worker(self.worker_id)


@dataclass(kw_only=True, eq=False)
class LocalJobLease(JobLease):
    """A lease whose files lie in the data folder."""

    lease: Lease
    jobs: JobService
    storage: Storage

    @unavailable_for_now()
    def renew(self) -> None:
        self.jobs.heartbeat(self.lease)

    @unavailable_for_now()
    def open_log(self) -> LogSink:
        try:
            log = self.storage.fetch(self.storage.job_log(self.job_id))
            return log.open("a", encoding="utf-8", errors="replace", buffering=1)
        except FileNotFoundError as error:
            raise LeaseLost(f"the job {self.job_id} was deleted") from error

    @unavailable_for_now()
    def inputs(self) -> JobInputs:
        storage, job_id = self.storage, self.job_id
        storage.delete_partial_files(job_id, self.token)
        config, provenance = self.attempt_folder / "config.json", self.attempt_folder / "provenance.json"
        write_atomically(config, self.config.model_dump_json(indent=2).encode(), make_folder=False)
        origin = self.jobs.provenance(self.lease).model_dump_json(indent=2)
        write_atomically(provenance, origin.encode(), make_folder=False)
        generator, discriminator = storage.start_files(job_id)
        start = None
        if generator is not None or discriminator is not None:
            text = (storage.start_folder(job_id) / ORIGIN_FILE).read_text(encoding="utf-8")
            start = StartFiles(generator, discriminator, text)
        dataset_id = self.lease.dataset_id
        recordings = storage.recordings(dataset_id)
        cache = storage.cache_folder(dataset_id)
        return JobInputs(recordings, cache, config, provenance, start)

    @unavailable_for_now()
    def newest_checkpoint(self) -> StoredCheckpoint | None:
        run = StoredCheckpoints(self.storage, self.job_id).latest()
        return None if run is None else StoredCheckpoint(run.token, run.newest)

    @unavailable_for_now()
    def restore_checkpoint(self, workspace: Workspace) -> None:
        run = StoredCheckpoints(self.storage, self.job_id).latest()
        if run is not None and not run.restore(workspace):
            raise IncompatibleCheckpoint(
                f"all copies of the job's checkpoints in {run.folder} are damaged; retry the job from the start"
            )

    @unavailable_for_now()
    def store_checkpoint(self, workspace: Workspace) -> None:
        try:
            copied = StoredCheckpoints(self.storage, self.job_id).upload(workspace, self.token)
        except FileNotFoundError:  # the engine has finished another one, whose event follows, or the job was deleted
            logger.debug("a checkpoint was superseded", workspace=str(workspace.root))
        except CorruptCheckpoint as error:
            raise IncompatibleCheckpoint(str(error)) from error
        else:
            if copied is not None:
                logger.debug("checkpoint copied", step=copied.step)

    @unavailable_for_now()
    def record_engine(self, pid: int, started_at: float) -> None:
        self.jobs.record_engine_process(self.lease, pid, started_at)

    @unavailable_for_now()
    def record(self, events: Sequence[Event], write: int) -> None:
        record_batch(self.jobs, self.lease, events, write, self._store)

    def _store(self, path: str, name: str | None) -> StoredFile:
        return self.storage.store_artifact(self.job_id, self.token, Path(path), name)

    @unavailable_for_now()
    def finish(self, outcome: Outcome) -> JobStatus:
        match outcome:
            case Success():
                self.jobs.succeed(self.lease)
                return JobStatus.SUCCEEDED
            case Released():
                return self.jobs.release(self.lease, outcome.why)
            case Failure():
                return self.jobs.fail(self.lease, outcome.code, outcome.message)
            case WorkerFault():
                return self.jobs.hand_back(self.lease, outcome.code, outcome.message)

    @unavailable_for_now()
    def clear_if_deleted(self) -> None:
        try:
            self.jobs.get(self.job_id)
        except NotFound:
            if (home := self.storage.job_home(self.job_id)).exists():
                Trash(self.storage.root).add(home, "jobs")


@dataclass(kw_only=True, eq=False)
class LocalConversionLease(ConversionLease):
    """A lease whose files lie in the data folder, where results are written in their place."""

    lease: conversion_queue.ConversionLease
    conversions: ConversionQueue
    root: Path

    @unavailable_for_now()
    def beat(self, progress: float) -> bool:
        return self.conversions.beat(self.lease, progress)

    @unavailable_for_now()
    def finish(self, results: Sequence[ConversionResult], device: str, device_reason: str) -> ConversionStatus:
        return self.conversions.finish(self.lease, [self._stored(each) for each in results], device, device_reason)

    @unavailable_for_now()
    def fail(self, code: ConversionFailure, message: str) -> None:
        self.conversions.fail(self.lease, code, message)

    @unavailable_for_now()
    def release(self) -> None:
        self.conversions.release(self.lease)

    def _stored(self, result: ConversionResult) -> ResultFile:
        file = result.file
        stored = None
        if file is not None:
            stored = StoredFile(file.path.relative_to(self.root).as_posix(), file.size, file.sha256)
        return ResultFile(result.name, stored, result.seconds, result.pitch_shift, result.error)
