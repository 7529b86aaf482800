"""Log of one job: readable lines, appended at once, which the server shows while the job runs."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from rvc_engine.event_text import describe
from rvc_engine.events import Event, Level

logger = structlog.get_logger(__name__)


class JobLog:
    """Log file that several threads append to. A full disk loses lines, but does not end the run.

    The lines of a stale worker are appended like all others, and change none.
    """

    def __init__(self, path: Path) -> None:
        """`path`: in the job's folder; FileNotFoundError when the job was deleted."""
        self._path = path
        self._file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
        self._lock = threading.Lock()
        self._is_failing = False

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

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
            if self._file.closed:
                return
            try:
                self._file.write(text)
                self._is_failing = False
            except OSError as error:
                if not self._is_failing:
                    logger.warning("the job's log cannot be written", path=str(self._path), reason=str(error))
                self._is_failing = True
