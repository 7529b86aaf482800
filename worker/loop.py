"""The worker: make itself known, claim, run, finish; until it is asked to stop."""

import os
import socket
import threading

import sqlalchemy as sa
import structlog

from rvc_engine.errors import FailureCode
from server.claims import Claim
from server.database import migrate
from server.errors import ClaimLost
from server.jobs import JobBook
from server.storage import Storage
from worker.heartbeat import Heartbeat
from worker.job_run import JobRun
from worker.patience import DATABASE_AWAY, insist
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)


def work(settings: WorkerSettings, engine: sa.Engine, stop: threading.Event) -> None:
    """Run jobs one after the other until `stop` is set; then hand back the present one and return."""
    insist(lambda: migrate(engine), give_up=stop.is_set)
    book = JobBook(engine, retry_delay_seconds=settings.retry_delay_seconds)
    worker_id = insist(lambda: _register(settings, book), give_up=stop.is_set)
    if worker_id is None:
        return
    logger.info("worker ready", worker_id=worker_id, name=settings.worker_name, device=settings.device)
    heartbeat = Heartbeat(book, worker_id, settings.heartbeat_seconds, settings.wish_seconds)
    heartbeat.start()
    try:
        while not (stop.is_set() or heartbeat.is_draining):
            claim = _claim(book, worker_id)
            if claim is None:
                stop.wait(settings.poll_seconds)
            else:
                _run(settings, book, claim, heartbeat, stop)
    finally:
        heartbeat.stop()
        insist(lambda: book.worker_stopped(worker_id), give_up=lambda: True)
        logger.info("worker stopped", worker_id=worker_id)


def _register(settings: WorkerSettings, book: JobBook) -> str:
    return book.register_worker(settings.worker_name, os.getpid(), socket.gethostname(), settings.device)


def _claim(book: JobBook, worker_id: str) -> Claim | None:
    try:
        return book.claim(worker_id)
    except DATABASE_AWAY:
        return None


def _run(settings: WorkerSettings, book: JobBook, claim: Claim, heartbeat: Heartbeat, stop: threading.Event) -> None:
    """Run one job. A mistake of ours ends that job with a code, not the worker."""
    logger.info("job claimed", job_id=claim.job_id, attempt=claim.attempt, voice=claim.voice)
    storage = Storage(settings.data_folder)
    heartbeat.hold(claim)
    try:
        JobRun(settings, book, storage, claim, heartbeat, stop.is_set).run()
    except Exception as error:
        logger.exception("the worker made a mistake", job_id=claim.job_id)
        message = f"the worker made a mistake ({type(error).__name__}: {error}); see its log"
        _fail(book, claim, message, stop)
    finally:
        heartbeat.hold(None)


def _fail(book: JobBook, claim: Claim, message: str, stop: threading.Event) -> None:
    try:
        insist(lambda: book.fail(claim, FailureCode.INTERNAL, message), give_up=stop.is_set)
    except ClaimLost:
        logger.warning("the job was taken away meanwhile", job_id=claim.job_id)
