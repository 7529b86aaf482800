"""One run of the engine as a process: from options to an exit code, whatever happens on the way.

Every end has its last event and its exit code: succeeded, failed with a code and a sentence, or stopped on request.
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import DiskFull, EngineError, FailureCode, StopRequested
from rvc_engine.events import EXIT_FAILED, EXIT_STOPPED, EXIT_SUCCEEDED, Event, Failed, Stopped, Succeeded, format_event
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.reporting import Report
from rvc_engine.workspace.layout import Workspace


class StopSwitch:
    """Turned by SIGTERM, SIGINT, or the end of standard input; looked at between two pieces of work."""

    def __init__(self) -> None:
        self._turned = threading.Event()

    def __call__(self) -> bool:
        return self._turned.is_set()

    def turn(self) -> None:
        """Ask the run to stop."""
        self._turned.set()

    def on_signals(self) -> None:
        """Listen to SIGTERM and SIGINT; a second SIGINT interrupts at once, as people expect of Ctrl-C."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self.turn()
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def on_end_of_input(self) -> None:
        """Listen to standard input: when whoever started us is gone, nobody wants this run to go on beside the next."""

        def watch() -> None:
            with suppress(OSError, ValueError):
                # Not through sys.stdin: a thread that waits in its buffer makes the interpreter abort at its end.
                while os.read(sys.stdin.fileno(), 4096):
                    pass
            self.turn()

        threading.Thread(target=watch, name="stdin", daemon=True).start()


class EventLines:
    """Writes events as JSON lines to standard output; a reader that is gone turns the switch."""

    def __init__(self, switch: StopSwitch) -> None:
        self._switch = switch
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            try:
                sys.stdout.write(format_event(event) + "\n")
                sys.stdout.flush()
            except (BrokenPipeError, ValueError):
                self._switch.turn()


def run_engine(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    report: Report,
    switch: Callable[[], bool],
    selection: StageSelection,
    lock_wait_seconds: float,
) -> int:
    """Make the voice; returns the exit code. Never raises for what may go wrong in a run."""
    try:
        with workspace.lock(lock_wait_seconds):
            make_voice(dataset, workspace, config, machine, report, switch, selection)
    except StopRequested:
        report(Stopped(message="stopped as asked; started again, the run goes on from here"))
        return EXIT_STOPPED
    except EngineError as error:
        return _failed(report, error.code, str(error))
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return _failed(report, DiskFull.code, f"no room is left on the disk ({error}); free some and start again")
        return _unexpected(report, error)
    except Exception as error:  # noqa: BLE001 (the outermost guard: whatever it was, the reader gets a last event)
        return _unexpected(report, error)
    report(Succeeded(message=f"the voice {workspace.voice} is ready in {workspace.weights}"))
    return EXIT_SUCCEEDED


def _failed(report: Report, code: FailureCode, message: str) -> int:
    report(Failed(code=code, message=message))
    return EXIT_FAILED


def _unexpected(report: Report, error: Exception) -> int:
    traceback.print_exception(error, file=sys.stderr)
    return _failed(
        report,
        FailureCode.INTERNAL,
        f"something unforeseen happened ({type(error).__name__}: {error}); the log holds the details; please report it",
    )
