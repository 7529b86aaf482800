"""The engine's events for a person at a terminal, and for the log file of a run."""

import logging
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rvc_engine import events
from rvc_engine.event_text import describe, throughput_text
from rvc_engine.events import Event
from rvc_engine.reporting import Report

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SECONDS_BETWEEN_LINES = 10.0
"""Between progress lines where no bar can be drawn."""


class LogFile:
    """Every event as a line of `train.log`, whatever the console shows.

    A log that cannot be written (a full disk) ends no run: it stops, and says so once on standard error.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
        self._is_lost = False

    def __call__(self, event: Event) -> None:
        entry = describe(event)
        if entry is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            self._write(f"{stamp} {entry[0].upper():<7} {entry[1]}\n")

    def _write(self, line: str) -> None:
        if self._is_lost:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._is_lost = True
            print(f"{self._file.name} is not written any further: {error}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Let the file go."""
        try:
            self._file.close()
        except OSError as error:  # what was still to be written
            self._is_lost = True
            print(f"{self._file.name} may lack its end: {error}", file=sys.stderr)  # noqa: T201


class Terminal:
    """Lines by level, and a progress bar where there is a terminal."""

    def __init__(self, level: str) -> None:
        self._level = LEVELS[level]
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._last_line = 0.0
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._progress(event)
            return
        entry = describe(event)
        # Losses of every step belong into the log file; here they stand beside the bar.
        level = logging.DEBUG if isinstance(event, events.Metric) else LEVELS[entry[0]] if entry else logging.NOTSET
        if entry is not None and level >= self._level:
            style = {"warning": "yellow", "error": "red"}.get(entry[0])
            self._console.print(entry[1], style=style, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _progress(self, event: events.Progress) -> None:
        place = f" epoch {event.epoch}/{event.total_epochs} step {event.step}" if event.step is not None else ""
        text = f"{event.stage}{place}{throughput_text(event.clips_per_second, event.machine_share)}"
        if self._bar is not None:
            self._bar.update(self._task, completed=event.progress, description=text)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES and self._level <= logging.INFO:
            self._last_line = time.monotonic()
            eta = "" if event.eta_seconds is None else f", about {event.eta_seconds:.0f} s to go"
            self._console.print(f"{100 * event.progress:3.0f} % {text}{eta}", markup=False)


def broadcast(*reports: Report) -> Report:
    """One report that passes events to several."""

    def report(event: Event) -> None:
        for one in reports:
            one(event)

    return report
