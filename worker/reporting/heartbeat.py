"""Heartbeats of the worker and its lease, sent from a thread of their own; their answers carry commands."""

import math
import threading
import time
from pathlib import Path

import structlog

from rvc_train.schemas.workers import Drain, WorkerCommand
from worker.gateway.errors import SettingsRefused, Unavailable, first_line
from worker.gateway.interface import JobLease, RegisteredWorker

logger = structlog.get_logger(__name__)


class Heartbeat:
    """Heartbeats, sent every `heartbeat_seconds`, and every `command_seconds` while the worker holds a lease.

    An unavailable server only misses heartbeats: if another worker took the job meanwhile, its token has changed,
    and the next heartbeat finds the lease lost. None is sent while the worker's main loop, which calls `turn`, hangs
    for longer than `max_turn_seconds`: another worker then takes the job.
    """

    def __init__(
        self,
        worker: RegisteredWorker,
        heartbeat_seconds: float,
        command_seconds: float,
        accepted_file: Path | None = None,
        max_turn_seconds: float = math.inf,
    ) -> None:
        """`accepted_file`: file that is touched after each accepted heartbeat."""
        self._worker = worker
        self._accepted_file = accepted_file
        self._heartbeat_seconds = heartbeat_seconds
        self._command_seconds = min(command_seconds, heartbeat_seconds)
        self._max_turn_seconds = max_turn_seconds
        self._last_turn = time.monotonic()
        self._is_withheld = False
        self._is_refused = False
        self._last_sent = -math.inf
        self._lease: JobLease | None = None
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

    def attach(self, lease: JobLease | None) -> None:
        """Attach a lease to send heartbeats for; None: detach it."""
        with self._changed:
            self._lease, self.command, self.is_lost = lease, WorkerCommand.NONE, False
            self._changed.notify_all()

    def turn(self) -> None:
        """Record a turn of the worker's main loop."""
        self._last_turn = time.monotonic()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs. Without it, each job would be lost after a lease."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._send()
            except SettingsRefused as error:  # the main loop meets it with its next report, and ends the worker
                if not self._is_refused:
                    logger.error("the server accepts no more heartbeats of this worker", reason=first_line(error))
                self._is_refused = True
                time.sleep(self._command_seconds)
            except Exception:
                logger.exception("a heartbeat failed; the next one is sent all the same")
                time.sleep(self._command_seconds)

    def _send(self) -> None:
        """Send the heartbeat that is due, and wait for the next."""
        with self._changed:
            lease = self._lease
            leased = None if self.is_lost else lease
        is_due = leased is not None or time.monotonic() - self._last_sent >= self._heartbeat_seconds
        if not self._is_main_loop_stuck() and is_due:
            self._last_sent = time.monotonic()
            self._send_one(leased)
        with self._changed:
            if self._lease is lease and not self._is_over:
                self._changed.wait(self._command_seconds)

    def _is_main_loop_stuck(self) -> bool:
        seconds = time.monotonic() - self._last_turn
        is_stuck = seconds > self._max_turn_seconds
        if is_stuck and not self._is_withheld:
            logger.error("no heartbeats are sent: the main loop hangs, as in a call to a disk", seconds=round(seconds))
        self._is_withheld = is_stuck
        return is_stuck

    def _send_one(self, lease: JobLease | None) -> None:
        try:
            beat = self._worker.heartbeat(lease)
        except Unavailable as error:
            logger.warning("no heartbeat: the server is unavailable", reason=first_line(error))
            return
        self.drain = beat.drain
        if beat.lost is not None and lease is not None:
            logger.warning("the lease was lost", job_id=lease.job_id, reason=beat.lost)
        with self._changed:
            if self._lease is lease:
                self.command, self.is_lost = beat.command, beat.lost is not None
        try:
            if self._accepted_file is not None:
                self._accepted_file.touch()
        except OSError as error:
            logger.warning("the heartbeat file cannot be touched", file=str(self._accepted_file), reason=str(error))
