"""Heartbeats of the worker and its lease, sent from a thread of their own; their answers carry commands."""

import threading
import time
from pathlib import Path

import structlog

from server.errors import LeaseLost, NotFound
from server.job_store.leases import Drain, Lease, WorkerCommand
from server.jobs.service import JobService
from worker.reporting.retry import DATABASE_UNAVAILABLE, first_line

logger = structlog.get_logger(__name__)


class Heartbeat:
    """Heartbeats, sent every `heartbeat_seconds`, and every `command_seconds` while the worker holds a lease.

    An unavailable database only misses heartbeats: if another worker took the job meanwhile, its token has changed,
    and the next heartbeat finds the lease lost.
    """

    def __init__(
        self,
        job_service: JobService,
        worker_id: str,
        heartbeat_seconds: float,
        command_seconds: float,
        accepted_file: Path | None = None,
    ) -> None:
        """`accepted_file`: file that is touched after each accepted heartbeat of the worker."""
        self._jobs = job_service
        self._accepted_file = accepted_file
        self._worker_id = worker_id
        self._heartbeat_seconds = heartbeat_seconds
        self._command_seconds = min(command_seconds, heartbeat_seconds)
        self._lease: Lease | None = None
        self._changed = threading.Condition()
        self._is_over = False
        self.command = WorkerCommand.NONE
        """The command for the present job."""
        self.is_lost = False
        """Whether the lease of the present job is lost."""
        self.drain: Drain | None = None
        """Mode in which an administrator asked this worker to drain; None: not asked."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def attach(self, lease: Lease | None) -> None:
        """Attach a lease to send heartbeats for; None: detach it."""
        with self._changed:
            self._lease, self.command, self.is_lost = lease, WorkerCommand.NONE, False
            self._changed.notify_all()

    def _run(self) -> None:
        last_worker_beat = -self._heartbeat_seconds
        while True:
            with self._changed:
                if self._is_over:
                    return
                lease = self._lease
            if time.monotonic() - last_worker_beat >= self._heartbeat_seconds:
                last_worker_beat = time.monotonic()
                self._send_worker_heartbeat()
            if lease is not None and not self.is_lost:
                self._send_lease_heartbeat(lease)
            with self._changed:
                if self._lease is lease and not self._is_over:
                    self._changed.wait(self._command_seconds)

    def _send_worker_heartbeat(self) -> None:
        try:
            self.drain = self._jobs.worker_heartbeat(self._worker_id)
            if self._accepted_file is not None:
                self._accepted_file.touch()
        except OSError as error:
            logger.warning("the heartbeat file cannot be touched", file=str(self._accepted_file), reason=str(error))
        except NotFound:
            logger.warning("this worker is no longer registered and ends", worker_id=self._worker_id)
            self.drain = Drain.FINISH
        except DATABASE_UNAVAILABLE as error:
            logger.warning("no heartbeat: the database is unavailable", reason=first_line(error))

    def _send_lease_heartbeat(self, lease: Lease) -> None:
        try:
            command, is_lost = self._jobs.heartbeat(lease), False
        except LeaseLost as error:
            logger.warning("the lease was lost", job_id=lease.job_id, reason=str(error))
            command, is_lost = WorkerCommand.NONE, True
        except DATABASE_UNAVAILABLE as error:
            logger.warning("no heartbeat: the database is unavailable", job_id=lease.job_id, reason=first_line(error))
            return
        with self._changed:
            if self._lease is lease:
                self.command, self.is_lost = command, is_lost
