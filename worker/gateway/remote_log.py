"""Log of a job for a server on another machine: lines wait in a file here, and a thread sends them in their order."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from rvc_train.schemas.work.leases import LogLines
from worker.gateway.errors import LeaseLost, SettingsRefused, Unavailable, first_line

logger = structlog.get_logger(__name__)

SEND_SECONDS = 1.0
CLOSE_SECONDS = 20.0
"""Longest wait at the end for lines that the server does not have yet."""
_CHUNK_BYTES = 64 << 10


class RemoteLog:
    """Sink of a job's log. `write` waits for the disk alone, never for the server."""

    def __init__(self, file: Path, send: Callable[[LogLines], object]) -> None:
        """`file`: for the lines that wait. OSError when it cannot be written."""
        self._path, self._send = file, send
        self._file = file.open("ab+")
        self._file.truncate(0)
        self._changed = threading.Condition()
        self._written = self._sent = 0
        self._waiting = b""
        """Lines that were sent, while their answer is missing."""
        self._is_over = False
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Append lines. OSError."""
        data = text.encode(errors="replace")
        self._file.write(data)
        self._file.flush()
        with self._changed:
            self._written += len(data)
            self._changed.notify_all()

    def close(self) -> None:
        """Send what waits, as far as the server takes it within some seconds, and end the thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("the last lines of the log were not sent", file=str(self._path))
        self._file.close()

    def _work(self) -> None:
        deadline, pause = float("inf"), SEND_SECONDS
        while time.monotonic() < deadline:
            with self._changed:
                self._changed.wait_for(lambda: self._written > self._sent or self._is_over)
                if self._written == self._sent:
                    return
                if self._is_over:
                    deadline = min(deadline, time.monotonic() + CLOSE_SECONDS)
            try:
                self._send_next()
                pause = SEND_SECONDS
            except (LeaseLost, SettingsRefused):  # the job was deleted, or the worker is about to end
                return
            except (OSError, Unavailable) as error:
                logger.warning("lines of the log wait for the server", reason=first_line(error))
                pause = min(2 * pause, 10.0)
                if self._is_over:
                    time.sleep(SEND_SECONDS)
            except Exception:
                logger.exception("lines of the log are not sent any more")
                return
            with self._changed:
                self._changed.wait_for(lambda: self._is_over, pause)

    def _send_next(self) -> None:
        """Send the next lines; after an error the same ones, which count once."""
        if not self._waiting:
            with self._path.open("rb") as file:
                file.seek(self._sent)
                data = file.read(min(_CHUNK_BYTES, self._written - self._sent))
            self._waiting = data[: data.rfind(b"\n") + 1] or data
        self._send(LogLines(offset=self._sent, text=self._waiting.decode(errors="replace")))
        with self._changed:
            self._sent += len(self._waiting)
        self._waiting = b""
