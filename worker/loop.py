"""Loop of the worker: recover what a dead worker left, register, then claim and run jobs until it is asked to stop."""

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import sqlalchemy as sa
import structlog

from rvc_engine.errors import FailureCode
from rvc_engine.workspace.disk import is_disk_full
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.workers import Drain
from server.conversions.queue import ConversionQueue
from server.database.clock import database_clock
from server.database.engine import checkpoint_large_wal, database_name, migrate
from server.errors import LeaseLost, NotFound, SchemaChanged, SettingsRefused
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.storage.instances import Pairing, inspect_pairing, is_joined
from server.storage.local import Storage
from server.storage.permissions import restrict_access
from server.transient_errors import first_line, is_transient
from worker.conversions.engines import ConversionEngines
from worker.conversions.placement import TrainingState
from worker.conversions.service import ConversionService
from worker.engine.slots import Slot, Slots
from worker.engine.workspaces import Workspaces
from worker.hardware.calibration import Calibrator
from worker.hardware.devices import device_name, gpu_resources, visible_gpus
from worker.hardware.gpus import GpuMonitor
from worker.job_run import JobRun
from worker.limits import ExitCode, Limits
from worker.reporting.heartbeat import Heartbeat
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

SECONDS_BETWEEN_SWEEPS = 600
SECONDS_BETWEEN_WAL_CHECKS = 60
MAX_NETWORK_FOLDER_CHECKS = 90
"""NFS may show a new file a minute late."""


def work(settings: WorkerSettings, engine: sa.Engine, stop: threading.Event) -> ExitCode:
    """Run jobs one after the other until `stop` is set or the limits in the settings are reached.

    The present job is released then. Returns the exit code.
    """
    limits = Limits.of(settings)
    instance_id = _open_instance(settings, engine, stop)
    if instance_id is None:
        return limits.exit_code
    storage = Storage(settings.data_folder)
    job_service = JobService(
        engine,
        database_clock(engine),
        retry_delay_seconds=settings.retry_delay_seconds,
        max_recoveries=settings.max_recoveries,
        storage=storage,
    )
    workspaces = Workspaces(storage, settings.scratch_folder)
    retry_until_available(
        lambda: workspaces.claim_scratch(instance_id, partial(_status, job_service)), give_up=stop.is_set
    )
    if settings.scratch_folder is not None:
        for sentence in restrict_access(settings.scratch_folder.glob("job_*")):
            logger.warning(sentence)
    slots = Slots(settings.scratch_folder or settings.data_folder)
    slot = _take_slot(slots, stop)
    if slot is None:
        return limits.exit_code
    try:
        if retry_until_available(
            lambda: _recover(slot, job_service, storage, settings.stop_seconds), give_up=stop.is_set
        ):
            worker_id = retry_until_available(lambda: _register(settings, job_service), give_up=stop.is_set)
            if worker_id is not None:
                limits.stay_active()
                _Worker(
                    settings, job_service, storage, worker_id, stop, workspaces, slots, slot, instance_id, limits
                ).run()
    finally:
        slot.release()
    return limits.exit_code


def _take_slot(slots: Slots, stop: threading.Event) -> Slot | None:
    """A slot for this worker; None when `stop` is set while a disk is waited for. Raises SettingsRefused."""
    try:
        return retry_until_available(slots.take, give_up=stop.is_set)
    except OSError as error:
        raise SettingsRefused(
            f"{slots.folder} cannot be used for the worker's records: {error}; make it writable, or set "
            "RVC_TRAIN_SCRATCH_FOLDER to a folder on a local disk"
        ) from error


def _recover(slot: Slot, job_service: JobService, storage: Storage, grace_seconds: float) -> bool:
    """End the engines of a slot's worker, which has ended, and hand back its work; true once that is done.

    The record stays until then. Raises transient errors.
    """
    if slot.worker_id is None:
        return True
    for engine in slot.end_engines(grace_seconds):
        logger.warning("ended an engine that had outlived its worker", pid=engine.pid, job_id=engine.job_id)
    queue = ConversionQueue(job_service.engine, storage, database_clock(job_service.engine))
    for conversion_id in queue.requeue_worker(slot.worker_id):
        logger.warning("a conversion of a worker whose process ended is served again", conversion_id=conversion_id)
    for job_id in job_service.requeue_worker(slot.worker_id):
        logger.warning("handed back the job of a worker whose process ended", job_id=job_id, worker_id=slot.worker_id)
    slot.clear()
    return True


def _fold_wal(engine: sa.Engine, is_over: threading.Event) -> None:
    """Checkpoint a large write-ahead log, which the server does as long as it runs."""
    while not is_over.wait(SECONDS_BETWEEN_WAL_CHECKS):
        try:
            checkpoint_large_wal(engine)
        except (OSError, sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            logger.warning("the write-ahead log was not checkpointed; it is tried again", reason=first_line(error))


def _open_instance(settings: WorkerSettings, engine: sa.Engine, stop: threading.Event) -> str | None:
    """Wait until data folder and database have the same instance id, migrate the schema, and return the id.

    None when `stop` is set meanwhile. A worker never makes the id: on a machine where the data folder's disk is not
    mounted it would write it to an empty folder. Raises SettingsRefused when the two do not belong together, or when
    the database is not one of rvc-train.
    """
    try:
        found = _wait_until_joined(settings, stop)
        if found is None:
            return None
        retry_until_available(lambda: migrate(engine), give_up=stop.is_set)
    except sa.exc.DatabaseError as error:
        raise SettingsRefused(
            f"{database_name(settings.url)} cannot be used as the database: {first_line(error)}; set "
            "RVC_TRAIN_DATA_FOLDER or RVC_TRAIN_DATABASE_URL to the server's"
        ) from error
    return found.folder_id


def _wait_until_joined(settings: WorkerSettings, stop: threading.Event) -> Pairing | None:
    """Wait until data folder and database have the same id; None when `stop` is set first. Raises SettingsRefused."""
    num_waits = num_mismatches = 0
    while (
        found := retry_until_available(lambda: inspect_pairing(settings.data_folder, settings.url), give_up=stop.is_set)
    ) is not None:
        if found.is_joined:
            return found
        # The server may write the id between the checks of the two, and a network folder may show it later.
        num_mismatches = 0 if found.mismatch is None else num_mismatches + 1
        if found.mismatch is not None and num_mismatches > (MAX_NETWORK_FOLDER_CHECKS if num_waits else 1):
            raise SettingsRefused(found.mismatch)
        if found.mismatch is None and num_waits == 0:
            logger.info("waiting for the first start of the server, which makes the id of data folder and database")
        num_waits += found.mismatch is None
        if stop.wait(settings.poll_seconds):
            break
    return None


def _status(job_service: JobService, job_id: str) -> JobStatus | None:
    """A job's status; None for a job that is not in the database."""
    try:
        return JobStatus(job_service.get(job_id).status)
    except NotFound:
        return None


def _register(settings: WorkerSettings, job_service: JobService) -> str:
    num_gpus, gpu_memory_bytes = gpu_resources(settings.device, os.environ)
    return job_service.register_worker(
        settings.worker_name,
        os.getpid(),
        socket.gethostname(),
        settings.device,
        device_name=device_name(settings.device, os.environ),
        version=version("rvc-train"),
        heartbeat_seconds=settings.heartbeat_seconds,
        serves_conversions=settings.conversions,
        num_gpus=num_gpus,
        gpu_memory_bytes=gpu_memory_bytes,
        labels=settings.labels,
    )


class HeartbeatDied(Exception):
    """The thread that sends heartbeats has ended: this process would lose each job that it claims."""


@dataclass
class _Worker:
    """Loop of one registered worker."""

    settings: WorkerSettings
    jobs: JobService
    storage: Storage
    worker_id: str
    stop: threading.Event
    workspaces: Workspaces
    slots: Slots
    slot: Slot
    instance_id: str
    limits: Limits
    next_sweep_at: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_SWEEPS)
    """A start deletes nothing, the end of a job does."""
    is_claim_unanswered: bool = False
    """Whether the last claim may have been committed although it failed here."""
    is_outdated: bool = False
    """Whether the last claim was refused because another version upgraded the database."""
    heartbeat: Heartbeat = field(init=False)
    training: TrainingState = field(default_factory=TrainingState)
    conversion_engines: ConversionEngines = field(init=False)
    calibrator: Calibrator = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        weights = settings.weights_folder or self.storage.weights_folder
        self.conversion_engines = ConversionEngines(settings, weights, self.slot, self.training)
        self.calibrator = Calibrator(settings, self.storage)
        self.heartbeat = Heartbeat(
            self.jobs,
            self.worker_id,
            settings.heartbeat_seconds,
            settings.wish_seconds,
            settings.heartbeat_file,
            settings.max_turn_seconds,
        )

    def run(self) -> None:
        """Run jobs, with heartbeats and readings of the GPUs, and deregister at the end."""
        settings = self.settings
        retry_until_available(lambda: self.slot.register(self.worker_id), give_up=self.stop.is_set)
        logger.info("worker ready", worker_id=self.worker_id, name=settings.worker_name, device=settings.device)
        self.heartbeat.start()
        gpus = [] if settings.device == "cpu" else visible_gpus(settings.device, os.environ)
        gpu_monitor = GpuMonitor(self.storage, self.worker_id, gpus, settings.heartbeat_seconds)
        gpu_monitor.start()
        is_over = threading.Event()
        threading.Thread(target=_fold_wal, args=(self.jobs.engine, is_over), name="wal", daemon=True).start()
        queue = ConversionQueue(self.jobs.engine, self.storage, database_clock(self.jobs.engine))
        conversions = ConversionService(
            settings,
            queue,
            self.storage,
            self.workspaces,
            self.conversion_engines,
            self.worker_id,
            lambda: self.stop.is_set() or self.heartbeat.drain is Drain.HAND_BACK,
        )
        if settings.conversions:
            conversions.start()
        try:
            self.run_jobs(lambda: conversions.is_busy)
        finally:
            is_over.set()
            self.calibrator.stop()
            conversions.stop()
            gpu_monitor.stop()
            self.heartbeat.stop()
            retry_until_available(lambda: self.jobs.deregister_worker(self.worker_id), give_up=lambda: True)
            # Normally nothing is left. What is stays recorded when this fails, for the next worker in the slot.
            retry_until_available(
                lambda: _recover(self.slot, self.jobs, self.storage, settings.stop_seconds), give_up=lambda: True
            )
            logger.info("worker stopped", worker_id=self.worker_id, drained=self.heartbeat.drain is not None)

    def run_jobs(self, is_converting: Callable[[], bool]) -> None:
        """Run jobs until the worker is stopped or drained, or its limits are reached.

        Raises HeartbeatDied, and errors that are not transient.
        """
        while not (self.stop.is_set() or self.heartbeat.drain is not None or self.limits.are_reached):
            self.heartbeat.turn()
            if not self.heartbeat.is_alive:
                raise HeartbeatDied("the thread that sends heartbeats has ended; start the worker again")
            self._recover_abandoned()
            lease = self._claim()
            if lease is not None:
                self.calibrator.stop()
                self._run(lease)
                self._count_attempt(lease)
                continue
            if is_converting():
                self.limits.stay_active()
            if self.limits.has_idled or self._will_never_claim():
                return
            self._sweep_if_due()
            if self.conversion_engines.is_running:
                self.calibrator.stop()
            else:
                self.calibrator.on_idle()
            self.stop.wait(self.settings.poll_seconds)

    def _count_attempt(self, lease: Lease) -> None:
        """Note how the job is after its attempt; one whose status cannot be read counts as handed back."""
        try:
            status = self._status(lease.job_id)
        except Exception as error:
            if not is_transient(error):
                raise
            status = JobStatus.QUEUED
        self.limits.add_attempt(lease.job_id, status)

    def _will_never_claim(self) -> bool:
        """Whether the only job that this worker is for is not to be had; the log has the reason."""
        job_id = self.limits.job_id
        if job_id is None or self.is_claim_unanswered:
            return False
        try:
            reason = self.jobs.why_never_claimed(job_id, self.worker_id)
        except Exception as error:
            if not is_transient(error):
                raise
            return False
        if reason is not None:
            logger.info("the worker ends", reason=reason)
        return reason is not None

    def _recover_abandoned(self) -> None:
        """End engines that this worker could not end, and recover slots of workers on this machine that died."""
        try:
            self.slot.end_engines(self.settings.stop_seconds, of_jobs=True)
            for slot in self.slots.abandoned(self.slot):
                _recover(slot, self.jobs, self.storage, self.settings.stop_seconds)
        except Exception as error:
            if not (is_transient(error) or isinstance(error, OSError)):
                raise
            logger.warning("a dead worker's slot was not recovered; it is tried again", reason=first_line(error))

    def _claim(self) -> Lease | None:
        try:
            lease = self.jobs.claim(self.worker_id, is_repeated=self.is_claim_unanswered, job_id=self.limits.job_id)
        except OSError as error:  # of the attempt's folder; the job was not claimed
            logger.warning("no job is claimed: the data folder cannot be written", reason=str(error))
            return None
        except SchemaChanged as error:
            if not self.is_outdated:
                logger.warning(str(error))
            self.is_outdated = True
            return None
        except Exception as error:
            if not is_transient(error):
                raise
            self.is_claim_unanswered = True
            return None
        self.is_claim_unanswered = self.is_outdated = False
        return lease

    def _run(self, lease: Lease) -> None:
        """Run one job. An unexpected error hands it back, and ends neither the job nor the worker."""
        logger.info("job claimed", job_id=lease.job_id, attempt=lease.attempt, voice=lease.voice)
        self.heartbeat.attach(lease)
        self.training.begin()
        self.conversion_engines.make_room()
        try:
            JobRun(
                self.settings,
                self.jobs,
                self.storage,
                self.workspaces,
                self.slot,
                lease,
                self.heartbeat,
                self._is_draining,
                self.training,
            ).run()
        except Exception as error:
            logger.exception("unexpected worker error", job_id=lease.job_id)
            is_full = isinstance(error, OSError) and is_disk_full(error)
            code = FailureCode.DISK_FULL if is_full else FailureCode.INTERNAL
            self._hand_back(lease, code, f"unexpected worker error ({type(error).__name__}: {error}); see its log")
            self.stop.wait(self.settings.retry_delay_seconds)  # another worker may succeed
        finally:
            self.training.end()
            self.heartbeat.attach(None)
            self.next_sweep_at = 0.0

    def _is_draining(self) -> bool:
        return self.stop.is_set() or not self.heartbeat.is_alive

    def _hand_back(self, lease: Lease, code: FailureCode, message: str) -> None:
        try:
            retry_until_available(lambda: self.jobs.hand_back(lease, code, message), give_up=self._must_give_up)
        except LeaseLost:
            logger.warning("the lease was lost meanwhile", job_id=lease.job_id)

    def _must_give_up(self) -> bool:
        self.heartbeat.turn()
        return self._is_draining()

    def _sweep_if_due(self) -> None:
        if time.monotonic() < self.next_sweep_at:
            return
        self.next_sweep_at = time.monotonic() + SECONDS_BETWEEN_SWEEPS
        try:
            if is_joined(self.jobs.engine, self.storage):
                self.workspaces.sweep(self.instance_id, self._status, self.settings.trash_days)
        except Exception as error:
            if not (is_transient(error) or isinstance(error, SettingsRefused)):  # the latter: a disk cannot be read
                raise
            logger.warning("scratch folders were not swept; they are at the next sweep", reason=first_line(error))

    def _status(self, job_id: str) -> JobStatus | None:
        """A job's status, asked for before each of the folders, whose deletion may take long."""
        self.heartbeat.turn()
        return _status(self.jobs, job_id)
