"""Engine child in a process group of its own: start, events, request to stop, kill.

The child ends itself, after a checkpoint, when its standard input closes, so it does not outlive a killed worker.
Threads empty its pipes independently of the database: the child never blocks on the worker.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

from rvc_engine.environment.processes import PIPE, ProcessGroup, end_process, process_identity
from rvc_engine.events import CheckpointSaved, Event, Failed, Log, Progress, Stopped, Succeeded, parse_event
from worker.engine.job_log import JobLog

LAST_LINES = 20
"""Lines of standard error kept to explain a crash."""
PIPE_DRAIN_SECONDS = 5
"""Longest time to read on after the child's exit."""


@dataclass(frozen=True)
class EngineExit:
    """Exit of an engine child."""

    exit_code: int
    """As in `subprocess`: negative for a signal."""
    last_event: Succeeded | Failed | Stopped | None
    """Event that reports the end; None when the child ended without one."""
    last_lines: tuple[str, ...]
    """Last lines of its standard error."""


class EngineProcess:
    """Running engine. Call `take_events` until `poll` returns an exit."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: JobLog, step_seconds: float | None = None
    ) -> None:
        """Start the child. Raises OSError when the command cannot be run.

        `step_seconds`: duration of a step in earlier attempts, used until the child reports its own.
        """
        self._log = log
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._last_event: Succeeded | Failed | Stopped | None = None
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.watchdog = Watchdog(step_seconds)
        self._exited_at: float | None = None
        self._child = ProcessGroup(command, environment, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        self._readers = [
            read_lines(self._child.stdout, self._on_stdout),
            read_lines(self._child.stderr, self._on_stderr),
        ]

    @property
    def pid(self) -> int:
        """Process id of the child, which is also the id of its group."""
        return self._child.pid

    @property
    def started_at(self) -> float:
        """Start time of the process in seconds since the epoch; together with the pid it is unique."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).create_time()
        return time.time()

    def take_events(self, timeout: float) -> list[Event]:
        """Events since the last call, without log lines; waits up to `timeout` seconds for the first one."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        return events

    def poll(self) -> EngineExit | None:
        """Exit of the child, once it has ended and its pipes are empty; None before.

        A grandchild outside the group may hold the pipes open; it is not waited for longer than PIPE_DRAIN_SECONDS.
        """
        if self._child.poll() is None:
            return None
        if self._exited_at is None:
            self._exited_at = time.monotonic()
            self._child.end_group()
        is_late = time.monotonic() - self._exited_at > PIPE_DRAIN_SECONDS
        if not is_late and any(reader.is_alive() for reader in self._readers):
            return None
        return EngineExit(self._child.returncode, self._last_event, tuple(self._last_lines))

    def ask_to_stop(self) -> None:
        """Ask the child to save a checkpoint and end."""
        self._child.ask_to_stop()

    def kill(self) -> None:
        """End the group at once, unless the child has ended (its pid may belong to another process by now)."""
        if self._child.poll() is None:
            self._child.end_group()

    def close(self) -> None:
        """Kill the child if it still runs, collect its exit status, and close the pipes."""
        self.kill()
        self._child.wait()
        self._child.ask_to_stop()  # closes its standard input
        for reader, pipe in zip(self._readers, (self._child.stdout, self._child.stderr), strict=True):
            reader.join(PIPE_DRAIN_SECONDS)
            if pipe is not None and not reader.is_alive():
                pipe.close()

    def _on_stdout(self, line: str) -> None:
        event = parse_event(line)
        self.watchdog.observe(event)
        self._log.event(event)
        if isinstance(event, Succeeded | Failed | Stopped):
            self._last_event = event
        if not isinstance(event, Log):  # log lines go to the job's log only, not to the database
            self._events.put(event)

    def _on_stderr(self, line: str) -> None:
        self._last_lines.append(line)
        self._log.line("debug", line)


class Watchdog:
    """Watchdog of a child, by its events; the allowed silence scales with the duration of its steps and saves."""

    def __init__(self, step_seconds: float | None = None) -> None:
        self._last_event_at = time.monotonic()
        self._step_seconds = step_seconds or 0.0
        self._save_seconds = 0.0

    def observe(self, event: Event) -> None:
        """Record an event at the moment of its arrival."""
        now = time.monotonic()
        if isinstance(event, Progress) and event.step_seconds is not None:
            self._step_seconds = event.step_seconds
        if isinstance(event, CheckpointSaved):
            self._save_seconds = max(self._save_seconds, now - self._last_event_at)
        self._last_event_at = now

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last event, or since the start."""
        return time.monotonic() - self._last_event_at

    def allowed_silence(self, least_seconds: float, steps: float) -> float:
        """Allowed seconds without an event: `steps` steps and saves, at least `least_seconds`."""
        return max(least_seconds, steps * (self._step_seconds + self._save_seconds))


def terminate_stale_engine(pid: int, started_at: float, grace_seconds: float) -> bool:
    """End the engine of an earlier attempt, and its group: asked first. Whether there was one.

    The start time, in seconds since the epoch, guards against ending another process that got the same pid.
    """
    try:
        if abs(psutil.Process(pid).create_time() - started_at) > 1:
            return False
    except psutil.NoSuchProcess:
        return False
    identity = process_identity(pid)
    return identity is not None and end_process(pid, identity, grace_seconds)


def read_lines(
    pipe: IO[bytes] | None, take: Callable[[str], None], at_end: Callable[[], None] = lambda: None
) -> threading.Thread:
    """Start a thread that passes each line of a pipe to `take` until the pipe closes, and then calls `at_end`."""
    assert pipe is not None  # noqa: S101 - the child is started with pipes

    def read() -> None:
        for line in pipe:
            text = line.decode(errors="replace").rstrip("\r\n")
            if text:
                take(text)
        at_end()

    thread = threading.Thread(target=read, name="engine-reader", daemon=True)
    thread.start()
    return thread
