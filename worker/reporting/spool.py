"""Queue of events that wait for the database: the first ones in memory, a long backlog in a file.

A run produces about a kilobyte of events a step, too much for memory while the database is unavailable for hours.
"""

from collections import deque
from pathlib import Path
from typing import BinaryIO

import structlog

from rvc_engine.environment.files import unlink
from rvc_engine.events import Event, format_event, parse_event

logger = structlog.get_logger(__name__)

IN_MEMORY = 2000
"""Largest number of events in memory; further ones go to the file."""


class Spool:
    """Queue of events, for one thread."""

    def __init__(self, path: Path, in_memory: int = IN_MEMORY) -> None:
        """`path`: file that is created when it is first needed and deleted when it is empty again."""
        self._path = path
        self._in_memory = in_memory
        self._front: deque[Event] = deque()
        self._file: BinaryIO | None = None
        self._read_to = 0
        self._written_to = 0
        self._back: deque[Event] = deque()
        """Events added while the disk was full; the last ones in order."""

    def add(self, event: Event) -> None:
        """Append an event."""
        if self._file is None and not self._back and len(self._front) < self._in_memory:
            self._front.append(event)
        elif self._back or not self._write(event):
            self._back.append(event)

    def front(self) -> deque[Event]:
        """The oldest events, to be removed from the left; empty only when the queue is."""
        if not self._front:
            self._read()
        if not self._front and self._back:
            self._front, self._back = self._back, self._front
        return self._front

    def close(self) -> None:
        """Discard all events and delete the file."""
        self._front.clear()
        self._back.clear()
        self._delete()

    def _write(self, event: Event) -> bool:
        line = format_event(event).encode() + b"\n"
        try:
            if self._file is None:
                self._path.parent.mkdir(exist_ok=True)
                self._file = self._path.open("w+b", buffering=0)
                logger.info("events are spooled to a file until the database is back", path=str(self._path))
            self._file.seek(self._written_to)
            if self._file.write(line) != len(line):  # the disk is full: the next one begins where this one did
                return False
        except OSError as error:
            logger.warning("events stay in memory: the spool file cannot be written", reason=str(error))
            return False
        self._written_to += len(line)
        return True

    def _read(self) -> None:
        """Read the next events from the file into memory."""
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
            unlink(self._path)
        self._file, self._read_to, self._written_to = None, 0, 0
