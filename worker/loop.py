"""Loop of the worker: register, then claim and run jobs until it is asked to stop."""

import os
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import sqlalchemy as sa
import structlog

from rvc_engine.errors import FailureCode
from rvc_train.schemas.jobs import JobStatus
from server.database.engine import database_name, migrate
from server.errors import LeaseLost, NotFound, SettingsRefused
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.storage.instances import Pairing, inspect_pairing, is_joined
from server.storage.local import Storage
from server.storage.permissions import restrict_access
from worker.engine.workspaces import Workspaces
from worker.hardware.devices import device_name, visible_gpus
from worker.hardware.gpus import GpuMonitor
from worker.job_run import JobRun
from worker.reporting.heartbeat import Heartbeat
from worker.reporting.retry import DATABASE_UNAVAILABLE, first_line, retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

SECONDS_BETWEEN_SWEEPS = 600
MAX_NETWORK_FOLDER_CHECKS = 90
"""NFS may show a new file a minute late."""


def work(settings: WorkerSettings, engine: sa.Engine, stop: threading.Event) -> None:
    """Run jobs one after the other until `stop` is set; then release the present one and return."""
    instance_id = _open_instance(settings, engine, stop)
    if instance_id is None:
        return
    storage = Storage(settings.data_folder)
    job_service = JobService(engine, retry_delay_seconds=settings.retry_delay_seconds, storage=storage)
    workspaces = Workspaces(storage, settings.scratch_folder)
    retry_until_available(
        lambda: workspaces.claim_scratch(instance_id, partial(_status, job_service)), give_up=stop.is_set
    )
    if settings.scratch_folder is not None:
        for sentence in restrict_access(settings.scratch_folder.glob("job_*")):
            logger.warning(sentence)
    worker_id = retry_until_available(lambda: _register(settings, job_service), give_up=stop.is_set)
    if worker_id is None:
        return
    logger.info("worker ready", worker_id=worker_id, name=settings.worker_name, device=settings.device)
    heartbeat = Heartbeat(
        job_service, worker_id, settings.heartbeat_seconds, settings.wish_seconds, settings.heartbeat_file
    )
    heartbeat.start()
    gpus = [] if settings.device == "cpu" else visible_gpus(settings.device, os.environ)
    gpu_monitor = GpuMonitor(storage, worker_id, gpus, settings.heartbeat_seconds)
    gpu_monitor.start()
    try:
        _Worker(settings, job_service, storage, worker_id, heartbeat, stop, workspaces, instance_id).run_jobs()
    finally:
        gpu_monitor.stop()
        heartbeat.stop()
        retry_until_available(lambda: job_service.deregister_worker(worker_id), give_up=lambda: True)
        logger.info("worker stopped", worker_id=worker_id, drained=heartbeat.drain is not None)


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
    return job_service.register_worker(
        settings.worker_name,
        os.getpid(),
        socket.gethostname(),
        settings.device,
        device_name=device_name(settings.device, os.environ),
        version=version("rvc-train"),
    )


@dataclass
class _Worker:
    """Loop of one registered worker."""

    settings: WorkerSettings
    jobs: JobService
    storage: Storage
    worker_id: str
    heartbeat: Heartbeat
    stop: threading.Event
    workspaces: Workspaces
    instance_id: str
    next_sweep_at: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_SWEEPS)
    """A start deletes nothing, the end of a job does."""

    def run_jobs(self) -> None:
        while not (self.stop.is_set() or self.heartbeat.drain is not None):
            lease = self._claim()
            if lease is not None:
                self._run(lease)
                continue
            self._sweep_if_due()
            self.stop.wait(self.settings.poll_seconds)

    def _claim(self) -> Lease | None:
        try:
            return self.jobs.claim(self.worker_id)
        except DATABASE_UNAVAILABLE:
            return None
        except OSError as error:  # of the attempt's folder; the job was not claimed
            logger.warning("no job is claimed: the data folder cannot be written", reason=str(error))
            return None

    def _run(self, lease: Lease) -> None:
        """Run one job. An unexpected error fails that job, not the worker."""
        logger.info("job claimed", job_id=lease.job_id, attempt=lease.attempt, voice=lease.voice)
        self.heartbeat.attach(lease)
        try:
            is_draining = self.stop.is_set
            JobRun(self.settings, self.jobs, self.storage, self.workspaces, lease, self.heartbeat, is_draining).run()
        except Exception as error:
            logger.exception("unexpected worker error", job_id=lease.job_id)
            self._fail(lease, f"unexpected worker error ({type(error).__name__}: {error}); see its log")
        finally:
            self.heartbeat.attach(None)
            self.next_sweep_at = 0.0

    def _fail(self, lease: Lease, message: str) -> None:
        try:
            retry_until_available(
                lambda: self.jobs.fail(lease, FailureCode.INTERNAL, message), give_up=self.stop.is_set
            )
        except LeaseLost:
            logger.warning("the lease was lost meanwhile", job_id=lease.job_id)

    def _sweep_if_due(self) -> None:
        if time.monotonic() < self.next_sweep_at:
            return
        self.next_sweep_at = time.monotonic() + SECONDS_BETWEEN_SWEEPS
        try:
            if is_joined(self.jobs.engine, self.storage):
                self.workspaces.sweep(self.instance_id, partial(_status, self.jobs), self.settings.trash_days)
        except (*DATABASE_UNAVAILABLE, SettingsRefused) as error:  # the latter when a disk cannot be read
            logger.warning("scratch folders were not swept; they are at the next sweep", reason=first_line(error))
