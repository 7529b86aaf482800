"""Log of one job: readable lines, appended at once, which the server shows while the job runs."""

import threading
import time
from datetime import UTC, datetime

import structlog

from rvc_engine.event_text import describe
from rvc_engine.events import Event, Level
from worker.gateway.interface import LogSink

logger = structlog.get_logger(__name__)


class JobLog:
    """Log that several threads append to. A full disk loses lines, but does not end the run.

    The lines of a stale worker are appended like all others, and change none.
    """

    def __init__(self, sink: LogSink, job_id: str) -> None:
        """`sink`: closed with the log."""
        self._sink, self._job_id = sink, job_id
        self._lock = threading.Lock()
        self._is_closed = self._is_failing = False

    def close(self) -> None:
        """Close the sink."""
        with self._lock:
            self._is_closed = True
            self._sink.close()

    def line(self, level: Level, message: str, at: float | None = None) -> None:
        """Append one entry; `at` is in seconds since the epoch, None for now."""
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        text = message.replace("\r", "").replace("\n", "\n    ")
        self._write(f"{stamp} {level:<7} {text}\n")

    def event(self, event: Event) -> None:
        """Append an event of the engine as a sentence; progress events, which are too many, are left out."""
        entry = describe(event)
        if entry is not None:
            self.line(*entry, at=event.time)

    def _write(self, text: str) -> None:
        with self._lock:
            if self._is_closed:
                return
            try:
                self._sink.write(text)
                self._is_failing = False
            except OSError as error:
                if not self._is_failing:
                    logger.warning("the job's log cannot be written", job_id=self._job_id, reason=str(error))
                self._is_failing = True
