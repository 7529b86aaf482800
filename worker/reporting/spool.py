"""Events that wait for the database: the first ones in memory, a long backlog in a file, in their order.

While the database is away for hours a run says more than memory should hold; on disk it costs about a kilobyte a step.
"""

from collections import deque
from pathlib import Path
from typing import BinaryIO

import structlog

from rvc_engine.events import Event, format_event, parse_event

logger = structlog.get_logger(__name__)

IN_MEMORY = 2000
"""Events held in memory; the file takes what comes beyond."""


class Spool:
    """A queue. Belongs to one thread."""

    def __init__(self, path: Path, in_memory: int = IN_MEMORY) -> None:
        """`path` is made when it is first needed, and deleted when it is empty again."""
        self._path = path
        self._in_memory = in_memory
        self._front: deque[Event] = deque()
        self._file: BinaryIO | None = None
        self._read_to = 0
        self._written_to = 0
        self._back: deque[Event] = deque()
        """What came while the disk was full: behind everything else."""

    def add(self, event: Event) -> None:
        """Append one."""
        if self._file is None and not self._back and len(self._front) < self._in_memory:
            self._front.append(event)
        elif self._back or not self._write(event):
            self._back.append(event)

    def front(self) -> deque[Event]:
        """The oldest ones, to be taken from its left; empty only when nothing waits."""
        if not self._front:
            self._read()
        if not self._front and self._back:
            self._front, self._back = self._back, self._front
        return self._front

    def close(self) -> None:
        """Forget everything, and delete the file."""
        self._front.clear()
        self._back.clear()
        self._delete()

    def _write(self, event: Event) -> bool:
        line = format_event(event).encode() + b"\n"
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b", buffering=0)
                logger.info("events wait in a file for the database", path=str(self._path))
            self._file.seek(self._written_to)
            if self._file.write(line) != len(line):  # the disk is full: the next one begins where this one did
                return False
        except OSError as error:
            logger.warning("events wait in memory: the file cannot be written", reason=str(error))
            return False
        self._written_to += len(line)
        return True

    def _read(self) -> None:
        """Take the next ones out of the file."""
        if self._file is None:
            return
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            while len(self._front) < self._in_memory and self._read_to < self._written_to:
                line = file.readline()
                self._read_to += len(line)
                self._front.append(parse_event(line.decode()))
        if self._read_to >= self._written_to:
            self._delete()

    def _delete(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._file, self._read_to, self._written_to = None, 0, 0
