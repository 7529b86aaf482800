"""The worker: make itself known, claim, run, finish; until it is asked to stop."""

import os
import socket
import threading
import time
from importlib.metadata import version

import sqlalchemy as sa
import structlog

from rvc_engine.errors import FailureCode
from server.claims import Claim
from server.database import migrate
from server.errors import ClaimLost, NotFound, SettingsRefused
from server.jobs import JobBook
from server.schemas import JobStatus
from server.storage import Storage
from worker.devices import device_name, visible_gpus
from worker.gpus import GpuWatch
from worker.heartbeat import Heartbeat
from worker.job_run import JobRun
from worker.patience import DATABASE_AWAY, first_line, insist
from worker.settings import WorkerSettings
from worker.workspaces import Workspaces

logger = structlog.get_logger(__name__)


SECONDS_BETWEEN_SWEEPS = 600


def work(settings: WorkerSettings, engine: sa.Engine, stop: threading.Event) -> None:
    """Run jobs one after the other until `stop` is set; then hand back the present one and return."""
    _migrate(engine, stop)
    book = JobBook(engine, retry_delay_seconds=settings.retry_delay_seconds)
    worker_id = insist(lambda: _register(settings, book), give_up=stop.is_set)
    if worker_id is None:
        return
    logger.info("worker ready", worker_id=worker_id, name=settings.worker_name, device=settings.device)
    heartbeat = Heartbeat(book, worker_id, settings.heartbeat_seconds, settings.wish_seconds)
    heartbeat.start()
    watch = _gpu_watch(settings, worker_id)
    watch.start()
    try:
        _Worker(settings, book, worker_id, heartbeat, stop).run_jobs()
    finally:
        watch.stop()
        heartbeat.stop()
        insist(lambda: book.worker_stopped(worker_id), give_up=lambda: True)
        logger.info("worker stopped", worker_id=worker_id, drained=heartbeat.drain is not None)


def _migrate(engine: sa.Engine, stop: threading.Event) -> None:
    """Bring the schema up to date. SettingsRefused for what is no database of ours."""
    try:
        insist(lambda: migrate(engine), give_up=stop.is_set)
    except sa.exc.DatabaseError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise SettingsRefused(
            f"{where} cannot be used as the book: {first_line(error)}; set RVC_TRAIN_DATA_FOLDER or "
            "RVC_TRAIN_DATABASE_URL to the server's"
        ) from error


def _register(settings: WorkerSettings, book: JobBook) -> str:
    return book.register_worker(
        settings.worker_name,
        os.getpid(),
        socket.gethostname(),
        settings.device,
        device_name=device_name(settings.device, os.environ),
        version=version("rvc-train"),
    )


def _gpu_watch(settings: WorkerSettings, worker_id: str) -> GpuWatch:
    gpus = [] if settings.device == "cpu" else visible_gpus(settings.device, os.environ)
    return GpuWatch(Storage(settings.data_folder), worker_id, gpus, settings.heartbeat_seconds)


class _Worker:
    def __init__(
        self, settings: WorkerSettings, book: JobBook, worker_id: str, heartbeat: Heartbeat, stop: threading.Event
    ) -> None:
        self._settings, self._book, self._worker_id = settings, book, worker_id
        self._heartbeat, self._stop = heartbeat, stop
        self._storage = Storage(settings.data_folder)
        self._workspaces = Workspaces(self._storage, settings.scratch_folder)
        self._swept_at = -float(SECONDS_BETWEEN_SWEEPS)

    def run_jobs(self) -> None:
        while not (self._stop.is_set() or self._heartbeat.drain is not None):
            claim = self._claim()
            if claim is not None:
                self._run(claim)
                continue
            self._sweep_now_and_then()
            self._stop.wait(self._settings.poll_seconds)

    def _claim(self) -> Claim | None:
        try:
            return self._book.claim(self._worker_id)
        except DATABASE_AWAY:
            return None

    def _run(self, claim: Claim) -> None:
        """Run one job. A mistake of ours ends that job with a code, not the worker."""
        logger.info("job claimed", job_id=claim.job_id, attempt=claim.attempt, voice=claim.voice)
        self._heartbeat.hold(claim)
        try:
            JobRun(
                self._settings,
                self._book,
                self._storage,
                self._workspaces,
                claim,
                self._heartbeat,
                self._stop.is_set,
            ).run()
        except Exception as error:
            logger.exception("the worker made a mistake", job_id=claim.job_id)
            self._fail(claim, f"the worker made a mistake ({type(error).__name__}: {error}); see its log")
        finally:
            self._heartbeat.hold(None)
            self._swept_at = -float(SECONDS_BETWEEN_SWEEPS)

    def _fail(self, claim: Claim, message: str) -> None:
        try:
            insist(lambda: self._book.fail(claim, FailureCode.INTERNAL, message), give_up=self._stop.is_set)
        except ClaimLost:
            logger.warning("the job was taken away meanwhile", job_id=claim.job_id)

    def _sweep_now_and_then(self) -> None:
        if time.monotonic() - self._swept_at < SECONDS_BETWEEN_SWEEPS:
            return
        self._swept_at = time.monotonic()
        try:
            self._workspaces.sweep(self._is_over)
        except DATABASE_AWAY as error:
            logger.warning("scratch folders are looked at later: the database is away", reason=first_line(error))

    def _is_over(self, job_id: str) -> bool:
        try:
            return JobStatus(self._book.get(job_id).status).is_terminal
        except NotFound:
            return True
