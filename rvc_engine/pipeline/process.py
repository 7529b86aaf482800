"""One run of the engine as a process, with an exit code for every outcome.

Each outcome has a last event and an exit code: succeeded, failed with a code and a message, or stopped on request.
"""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rvc_engine.child_processes import own_command
from rvc_engine.config import TrainingConfig
from rvc_engine.environment.processes import on_end_of_input, on_stop_signals
from rvc_engine.errors import DiskFull, EngineError, FailureCode, GraphsFailed, StopRequested
from rvc_engine.events import (
    EXIT_FAILED,
    EXIT_RESTART,
    EXIT_STOPPED,
    EXIT_SUCCEEDED,
    Event,
    Failed,
    Log,
    Stopped,
    Succeeded,
    Warned,
    format_event,
)
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pipeline.tensorboard_log import tensorboard_log
from rvc_engine.reporting import Report
from rvc_engine.training.cuda_graphs import GRAPHS_VARIABLE
from rvc_engine.training.micro_batches import free_cached_memory
from rvc_engine.translation.program_errors import describe_os_error
from rvc_engine.workspace.disk import check_spelling, check_writable
from rvc_engine.workspace.layout import Workspace


class StopSwitch:
    """Stop request, set by signals or the end of standard input, and polled between two pieces of work.

    A plain attribute: a signal may interrupt the thread that holds an event's lock.
    """

    def __init__(self) -> None:
        self._is_requested = False

    def __call__(self) -> bool:
        return self._is_requested

    def request_stop(self) -> None:
        """Request a stop."""
        self._is_requested = True

    def on_signals(self) -> None:
        """Stop at SIGTERM, SIGINT, SIGHUP and the end of a Windows console; a second Ctrl-C interrupts at once.

        SIGHUP (the terminal was closed) stays ignored where it is, as under nohup.
        """
        on_terminal = [number for number in (1, 2) if os.isatty(number)]

        def handle(number: int, _frame: FrameType | None) -> None:
            self.request_stop()
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.default_int_handler)

        def hang_up(_number: int, _frame: FrameType | None) -> None:
            self.request_stop()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in on_terminal:  # writing to a closed terminal is an error
                os.dup2(nowhere, descriptor)
            os.close(nowhere)

        on_stop_signals(handle, self.request_stop)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, hang_up)

    def on_end_of_input(self) -> None:
        """Watch standard input, which ends with the parent process; its next run must not meet this one."""

        on_end_of_input(self.request_stop)


class EventLines:
    """Writer of events as JSON lines on standard output; a closed pipe or terminal requests a stop."""

    def __init__(self, switch: StopSwitch) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        if isinstance(sys.stdout, io.TextIOWrapper):  # JSON is UTF-8, whatever a pipe's encoding on this system
            sys.stdout.reconfigure(encoding="utf-8")

    def __call__(self, event: Event) -> None:
        with self._lock:
            try:
                sys.stdout.write(format_event(event) + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                self._switch.request_stop()


def run_engine(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    report: Report,
    switch: Callable[[], bool],
    selection: StageSelection,
    lock_wait_seconds: float,
    prepare: Callable[[TrainingConfig], TrainingConfig] = lambda config: config,
) -> int:
    """Make the voice and return the exit code; errors of the run become a `Failed` event, and none is raised.

    EXIT_RESTART is for `restart`, once the caller has closed its files.

    `prepare`: called once the workspace is locked and before any work; returns the configuration to run with.
    """
    try:
        check_spelling(workspace.root)
        check_writable(workspace.root, workspace.weights, workspace.recovery, workspace.previews)
        with workspace.lock(lock_wait_seconds), tensorboard_log(workspace.root, report) as recorded:
            config = prepare(config)
            make_voice(dataset, workspace, config, machine, recorded, switch, selection)
    except StopRequested:
        report(Stopped(message="stopped as requested; start the run again to resume from here"))
        return EXIT_STOPPED
    except EngineError as error:
        return _engine_failed(report, error)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return _failed(report, DiskFull.code, f"the disk is full ({error}); free some space and start again")
        return _failed(report, FailureCode.INTERNAL, describe_os_error(error), error)
    except Exception as error:  # noqa: BLE001 (the outermost guard: every outcome has a last event)
        reason = f"{type(error).__name__}: {error}"
        message = f"an unexpected error occurred ({reason}); the log has the details; please report it"
        return _failed(report, FailureCode.INTERNAL, message, error)
    if selection.training:
        report(Succeeded(message=f"the voice {workspace.voice} is ready in {workspace.weights}"))
    else:
        report(Succeeded(message=f"the index of {workspace.voice} is ready in {workspace.weights}"))
    return EXIT_SUCCEEDED


def restart() -> int:
    """Run this program again in a new process, without CUDA graphs; returns its exit code on Windows alone.

    Elsewhere the new program takes the place of this one, with its process id, input and output. What this one holds of
    a GPU is freed either way before much is needed of it: on Windows as far as PyTorch can.
    """
    command, environment = own_command(), {**os.environ, GRAPHS_VARIABLE: "off"}
    free_cached_memory()
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, environment)  # noqa: S606 - our own command line
    return subprocess.call(command, env=environment)


def _engine_failed(report: Report, error: EngineError) -> int:
    """Report a run's own error, which is no end of it where only graphs failed."""
    if not isinstance(error, GraphsFailed):
        return _failed(report, error.code, str(error))
    report(Log(level="debug", message=str(error)))
    report(
        Warned(
            message="CUDA graphs cannot be used here; the engine starts again without them and goes on from its last "
            "checkpoint"
        )
    )
    return EXIT_RESTART


def _failed(report: Report, code: FailureCode, message: str, error: Exception | None = None) -> int:
    """Report the end of the run. `error`: one whose traceback belongs in the log."""
    if error is not None:  # at the level of debug, which the log file has and the console does not show
        report(Log(level="debug", message="".join(traceback.format_exception(error)).rstrip()))
    report(Failed(code=code, message=message))
    return EXIT_FAILED
