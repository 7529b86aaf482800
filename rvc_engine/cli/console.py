"""The engine's events on the terminal and in the log file of a run."""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain, count, pairwise
from pathlib import Path
from typing import TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from rvc_engine import events
from rvc_engine.environment.files import replace
from rvc_engine.event_text import describe, losses_text, throughput_text
from rvc_engine.events import EXIT_FAILED, Event, Failed
from rvc_engine.reporting import Report
from rvc_engine.translation.characters import accept_any_character
from rvc_engine.translation.messages import translated, translated_word
from rvc_engine.workspace.disk import unwritable
from rvc_engine.workspace.layout import Workspace

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SECONDS_BETWEEN_LINES = 10.0
"""Least time between progress lines where no bar can be drawn."""
LOG_INTERVAL = 200
"""Steps between lines of losses, as in RVC's `config.json`."""
MAX_LOG_BYTES = 10_000_000
KEPT_LOGS = 5
"""Older files of `train.log` that are kept."""
_OWN_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+ ")
_ENDS_OF_TRAINING = events.StageChanged | events.Failed | events.Stopped | events.Succeeded


class LogFile:
    """Writer of every event as a line of `train.log`, independent of the console's level.

    A file of MAX_LOG_BYTES becomes `train.log.1`, and so on up to KEPT_LOGS. Lines of another program are never
    deleted: a file that begins with such a line becomes `train.log.old`. A write error (a full disk) does not end the
    run: logging stops, with one message on standard error.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = self._open()
        self._is_lost = False

    def __call__(self, event: Event) -> None:
        entry = describe(event)
        if entry is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            self._write(f"{stamp} {entry[0].upper():<7} {entry[1]}\n")

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="utf-8", errors="replace", buffering=1)

    def _write(self, line: str) -> None:
        if self._is_lost:
            return
        try:
            self._file.write(line)
            if self._file.tell() > MAX_LOG_BYTES:
                self._rotate()
        except OSError as error:
            self._is_lost = True
            print(translated(f"{self._file.name} can no longer be written: {error}"), file=sys.stderr)  # noqa: T201

    def _rotate(self) -> None:
        """Give the file the next free name, or delete the oldest of KEPT_LOGS, and begin a new one."""
        self._file.close()
        numbered = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, KEPT_LOGS + 1)]
        with self._path.open(encoding="utf-8", errors="replace") as file:
            is_ours = _OWN_LINE.match(file.readline()) is not None
        if is_ours:
            for older, newer in pairwise(reversed(numbered)):
                if newer.exists():
                    replace(newer, older)
            replace(self._path, numbered[0])
        else:
            replace(self._path, _unused(self._path.with_name(f"{self._path.name}.old")))
        self._file = self._open()

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:  # from the last buffered line
            self._is_lost = True
            print(translated(f"the end of {self._file.name} may be missing: {error}"), file=sys.stderr)  # noqa: T201


def _unused(path: Path) -> Path:
    """The path, with a number where it exists."""
    numbered = (path.with_name(f"{path.name}{number}") for number in count(2))
    return next(candidate for candidate in chain([path], numbered) if not candidate.exists())


class _Output(Console):
    """Output of lines; one that is closed or full ends neither the run nor the program."""

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True)

    def print_line(self, text: str, style: str | None = None) -> None:
        """Print a line of plain text."""
        try:
            self.print(text, style=style, markup=False)
        except (OSError, ValueError):
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Terminal:
    """Console: progress, losses and results on standard output, warnings and errors on standard error.

    Lines from a level up. Where one of the two is a terminal, it has a progress bar.
    """

    def __init__(self, level: str, words: Callable[[str], str] = lambda text: text) -> None:
        """`words`: last changes of the words of lines in the user's language."""
        self._level, self._words = LEVELS[level], words
        self.log_interval = LOG_INTERVAL
        """Steps between lines of losses, which are also shown at the end of each epoch."""
        accept_any_character(sys.stdout, sys.stderr)
        self._output, self._faults = _Output(stderr=False), _Output(stderr=True)
        self._is_piped = not self._output.is_terminal
        if self._output.is_terminal and self._faults.is_terminal:
            self._faults = self._output  # lines of both above the bar
        self._last_line = 0.0
        self._losses: events.Metric | None = None
        self._shown_step = -1
        self._bar: Progress | None = None
        shown = next((each for each in (self._output, self._faults) if each.is_terminal), None)
        if shown is not None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=shown, transient=True, redirect_stdout=not self._is_piped)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def __call__(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._progress(event)
        elif isinstance(event, events.Metric) and self._level > logging.DEBUG:
            self._metric(event)
        elif (entry := describe(event)) is not None:
            if isinstance(event, _ENDS_OF_TRAINING):
                self._show_losses(self._losses)
            if LEVELS[entry[0]] >= self._level:
                style = {"warning": "yellow", "error": "red"}.get(entry[0])
                text = self._words(translated(entry[1]))
                (self._faults if entry[0] in {"warning", "error"} else self._output).print_line(text, style)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with suppress(OSError):  # the terminal was closed
                self._bar.stop()

    def show(self, share: float, text: str, eta_seconds: float | None = None) -> None:
        """Show progress, 0 to 1: in the bar, and in a pipe as a line every SECONDS_BETWEEN_LINES."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=text)
        if self._is_piped and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            eta = "" if eta_seconds is None else translated(f", about {eta_seconds:.0f} s to go")
            self._info(f"{100 * share:3.0f} % {text}{eta}")

    def _info(self, text: str) -> None:
        if self._level <= logging.INFO:
            self._output.print_line(text)

    def _progress(self, event: events.Progress) -> None:
        place = f" epoch {event.epoch}/{event.total_epochs} step {event.step}" if event.step is not None else ""
        throughput = translated(throughput_text(event.clips_per_second, event.machine_share))
        text = f"{translated_word('stage', event.stage)}{translated(place)}{throughput}"
        self.show(event.progress, text, event.eta_seconds)

    def _metric(self, event: events.Metric) -> None:
        """Show the losses every `log_interval` steps, and the last ones of each epoch."""
        last, self._losses = self._losses, event
        if event.step <= self._shown_step:  # training went back to a checkpoint
            self._shown_step = event.step - 1
        elif last is not None and event.epoch > last.epoch:
            self._show_losses(last)
        if event.step // self.log_interval > self._shown_step // self.log_interval:
            self._show_losses(event)

    def _show_losses(self, event: events.Metric | None) -> None:
        if event is not None and event.step > self._shown_step:
            self._shown_step = event.step
            self._info(translated(losses_text(event)))


@contextmanager
def open_report(
    workspace: Workspace,
    sink: Report | None = None,
    level: str = "info",
    words: Callable[[Event], Event] = lambda event: event,
) -> Iterator[Report]:
    """A report to `sink`, or by default to the terminal from `level` up, and to the workspace's log file.

    `words`: replaces the words of an event by those of the command. Reports Failed and exits with code 1 when the log
    file cannot be opened.
    """
    with ExitStack() as stack:
        shown = sink or stack.enter_context(closing(Terminal(level)))

        def show(event: Event) -> None:
            shown(event if isinstance(shown, Terminal) else words(event))  # a terminal translates before

        try:
            log = stack.enter_context(closing(LogFile(workspace.log)))
        except OSError as error:
            fault = unwritable(workspace.root, error)
            show(Failed(code=fault.code, message=str(fault)))
            raise typer.Exit(EXIT_FAILED) from error

        def report(event: Event) -> None:
            log(words(event))
            show(event)

        yield report
