"""The engine's events on the terminal and in the log file of a run."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rvc_engine import events
from rvc_engine.errors import DiskFull, InvalidConfig
from rvc_engine.event_text import describe, throughput_text
from rvc_engine.events import EXIT_FAILED, Event, Failed
from rvc_engine.reporting import Report
from rvc_engine.workspace.disk import is_disk_full
from rvc_engine.workspace.layout import Workspace

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SECONDS_BETWEEN_LINES = 10.0
"""Least time between progress lines where no bar can be drawn."""


class LogFile:
    """Writer of every event as a line of `train.log`, independent of the console's level.

    A write error (a full disk) does not end the run: logging stops, with one message on standard error.
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
            print(f"{self._file.name} can no longer be written: {error}", file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:  # from the last buffered line
            self._is_lost = True
            print(f"the end of {self._file.name} may be missing: {error}", file=sys.stderr)  # noqa: T201


class Terminal:
    """Console output on standard error: lines from a level up, and a progress bar on a terminal."""

    def __init__(self, level: str) -> None:
        self._level = LEVELS[level]
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._last_line = 0.0
        self._is_lost = False
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def __call__(self, event: Event) -> None:
        if not self._is_lost:
            with self._losing_it():
                self._show(event)

    @contextmanager
    def _losing_it(self) -> Iterator[None]:
        """Context in which a write error (the terminal was closed) ends the output, and not the run."""
        try:
            yield
        except OSError:
            self._is_lost = True

    def _show(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._progress(event)
            return
        entry = describe(event)
        # Losses of every step go to the log file only; the console has the progress bar.
        level = logging.DEBUG if isinstance(event, events.Metric) else LEVELS[entry[0]] if entry else logging.NOTSET
        if entry is not None and level >= self._level:
            style = {"warning": "yellow", "error": "red"}.get(entry[0])
            self._console.print(entry[1], style=style, markup=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with self._losing_it():
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


@contextmanager
def open_report(workspace: Workspace, sink: Report | None = None, level: str = "info") -> Iterator[Report]:
    """A report to `sink`, or by default to the terminal from `level` up, and to the workspace's log file.

    Reports Failed and exits with code 1 when the log file cannot be opened.
    """
    with ExitStack() as stack:
        shown = sink or stack.enter_context(closing(Terminal(level)))
        try:
            log = stack.enter_context(closing(LogFile(workspace.log)))
        except OSError as error:
            text = f"cannot write to {workspace.root} ({error.strerror}); free some space, or choose another folder"
            shown(Failed(code=DiskFull.code if is_disk_full(error) else InvalidConfig.code, message=text))
            raise typer.Exit(EXIT_FAILED) from error

        def report(event: Event) -> None:
            log(event)
            shown(event)

        yield report
