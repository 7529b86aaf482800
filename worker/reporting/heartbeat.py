"""Says that the worker lives, on a thread of its own, and hears what the book wishes of it."""

import threading
import time
from pathlib import Path

import structlog

from server.errors import LeaseLost, NotFound
from server.job_store.leases import Drain, Lease, WorkerCommand
from server.jobs.service import JobService
from worker.reporting.retry import DATABASE_AWAY, first_line

logger = structlog.get_logger(__name__)


class Heartbeat:
    """A worker's pulse: every `heartbeat_seconds`, and every `wish_seconds` while it holds a job.

    A database that is away misses beats, and nothing else happens: whoever took the job meanwhile has raised its
    token, and the next beat tells.
    """

    def __init__(
        self,
        book: JobService,
        worker_id: str,
        heartbeat_seconds: float,
        wish_seconds: float,
        accepted_file: Path | None = None,
    ) -> None:
        """`accepted_file`: touched at each heartbeat of the worker that the database took."""
        self._book = book
        self._accepted_file = accepted_file
        self._worker_id = worker_id
        self._heartbeat_seconds = heartbeat_seconds
        self._wish_seconds = min(wish_seconds, heartbeat_seconds)
        self._claim: Lease | None = None
        self._changed = threading.Condition()
        self._is_over = False
        self.wish = WorkerCommand.NONE
        """What the book wishes for the present job."""
        self.is_lost = False
        """Whether the present job was taken away."""
        self.drain: Drain | None = None
        """How an administrator asked this worker to take nothing new and end."""
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def hold(self, claim: Lease | None) -> None:
        """From now on beat for this job too, or for none."""
        with self._changed:
            self._claim, self.wish, self.is_lost = claim, WorkerCommand.NONE, False
            self._changed.notify_all()

    def _beat_on(self) -> None:
        last_worker_beat = -self._heartbeat_seconds
        while True:
            with self._changed:
                if self._is_over:
                    return
                claim = self._claim
            if time.monotonic() - last_worker_beat >= self._heartbeat_seconds:
                last_worker_beat = time.monotonic()
                self._beat_for_worker()
            if claim is not None and not self.is_lost:
                self._beat_for(claim)
            with self._changed:
                if self._claim is claim and not self._is_over:
                    self._changed.wait(self._wish_seconds)

    def _beat_for_worker(self) -> None:
        try:
            self.drain = self._book.worker_heartbeat(self._worker_id)
            if self._accepted_file is not None:
                self._accepted_file.touch()
        except OSError as error:
            logger.warning("the heartbeat file cannot be touched", file=str(self._accepted_file), reason=str(error))
        except NotFound:
            logger.warning("the book no longer knows this worker; it ends", worker_id=self._worker_id)
            self.drain = Drain.FINISH
        except DATABASE_AWAY as error:
            logger.warning("no heartbeat: the database is away", reason=first_line(error))

    def _beat_for(self, claim: Lease) -> None:
        try:
            wish, is_lost = self._book.heartbeat(claim), False
        except LeaseLost as error:
            logger.warning("the job is no longer ours", job_id=claim.job_id, reason=str(error))
            wish, is_lost = WorkerCommand.NONE, True
        except DATABASE_AWAY as error:
            logger.warning("no heartbeat: the database is away", job_id=claim.job_id, reason=first_line(error))
            return
        with self._changed:
            if self._claim is claim:
                self.wish, self.is_lost = wish, is_lost
