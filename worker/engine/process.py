"""One engine child: started in a process group of its own, always listened to, asked to stop, and killed if it must be.

The child ends itself, after a checkpoint, when its standard input closes, so a worker that dies takes no care of it.
Its pipes are emptied by threads whatever the database does: the child never waits for us.
"""

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import psutil

from rvc_engine.events import CheckpointSaved, Event, Failed, Log, Progress, Stopped, Succeeded, parse_event
from worker.engine.job_log import JobLog

LAST_LINES = 20
"""Lines of standard error kept to explain a crash."""
PIPE_DRAIN_SECONDS = 5
"""How long to read on after the child is gone."""


@dataclass(frozen=True)
class EngineExit:
    """The exit of a child."""

    exit_code: int
    """As `subprocess` gives it: below zero is a signal."""
    last_event: Succeeded | Failed | Stopped | None
    """What it said about its end; None when it died without a word."""
    last_lines: tuple[str, ...]
    """The end of its standard error."""


class EngineProcess:
    """A running engine. Use `take_events` until `poll` gives an exit."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: JobLog, step_seconds: float | None = None
    ) -> None:
        """Start the child. Raises OSError when the command cannot be run.

        `step_seconds`: what a step took before, until the child says what it takes now.
        """
        self._log = log
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._last_event: Succeeded | Failed | Stopped | None = None
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._watchdog = Watchdog(step_seconds)
        self._exited_at: float | None = None
        self._child = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._readers = [
            _reader(self._child.stdout, self._on_stdout),
            _reader(self._child.stderr, self._on_stderr),
        ]

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's id too."""
        return self._child.pid

    @property
    def started_at(self) -> float:
        """When the system started the child, in seconds since the epoch; with the pid it names one process for good."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).create_time()
        return time.time()

    @property
    def silent_seconds(self) -> float:
        """How long ago the last event came (or the start was)."""
        return self._watchdog.silent_seconds

    def allowed_silence(self, least_seconds: float, steps: float = 3) -> float:
        """Seconds of silence to allow: so many steps and saves as the child takes, and no less than `least_seconds`."""
        return self._watchdog.allowed_silence(least_seconds, steps)

    def take_events(self, timeout: float) -> list[Event]:
        """The events but log lines since the last call, waiting up to `timeout` seconds for a first one."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        return events

    def poll(self) -> EngineExit | None:
        """How the child went, once it is gone and its pipes are empty; None before.

        A grandchild that escaped the group may hold the pipes open; after a few seconds nobody waits for it.
        """
        if self._child.poll() is None:
            return None
        if self._exited_at is None:
            self._exited_at = time.monotonic()
            kill_group(self.pid)
        is_late = time.monotonic() - self._exited_at > PIPE_DRAIN_SECONDS
        if not is_late and any(reader.is_alive() for reader in self._readers):
            return None
        return EngineExit(self._child.returncode, self._last_event, tuple(self._last_lines))

    def ask_to_stop(self) -> None:
        """SIGTERM, and the end of its standard input: it saves a checkpoint and ends."""
        if self._child.poll() is None:
            self._child.terminate()
        self._close_input()

    def kill(self) -> None:
        """SIGKILL for the whole group, unless the child is gone already (its number may be another's by now)."""
        if self._child.poll() is None:
            kill_group(self.pid)

    def close(self) -> None:
        """End the child if it is still there, take its exit status, and let the pipes go."""
        self.kill()
        self._child.wait()
        self._close_input()
        for reader, pipe in zip(self._readers, (self._child.stdout, self._child.stderr), strict=True):
            reader.join(PIPE_DRAIN_SECONDS)
            if pipe is not None and not reader.is_alive():
                pipe.close()

    def _close_input(self) -> None:
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()

    def _on_stdout(self, line: str) -> None:
        event = parse_event(line)
        self._watchdog.observe(event)
        self._log.event(event)
        if isinstance(event, Succeeded | Failed | Stopped):
            self._last_event = event
        if not isinstance(event, Log):  # the job's log has it, and the database does not need it
            self._events.put(event)

    def _on_stderr(self, line: str) -> None:
        self._last_lines.append(line)
        self._log.line("debug", line)


class Watchdog:
    """Watchdog of a child, by its events: what silence is long for one is a single step for another."""

    def __init__(self, step_seconds: float | None = None) -> None:
        self._last_event_at = time.monotonic()
        self._step_seconds = step_seconds or 0.0
        self._save_seconds = 0.0

    def observe(self, event: Event) -> None:
        """Observe an event, at the moment it comes."""
        now = time.monotonic()
        if isinstance(event, Progress) and event.step_seconds is not None:
            self._step_seconds = event.step_seconds
        if isinstance(event, CheckpointSaved):
            self._save_seconds = max(self._save_seconds, now - self._last_event_at)
        self._last_event_at = now

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last event."""
        return time.monotonic() - self._last_event_at

    def allowed_silence(self, least_seconds: float, steps: float) -> float:
        """Seconds of silence that are still no reason for worry."""
        return max(least_seconds, steps * (self._step_seconds + self._save_seconds))


def kill_group(group: int) -> None:
    """SIGKILL a process group; nothing happens when none is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def terminate_stale_engine(pid: int, started_at: float, grace_seconds: float) -> bool:
    """End an engine that an earlier attempt left behind: SIGTERM, and SIGKILL for its group when that does not help.

    The start time keeps us from ending a stranger that got the same pid. True when there was one to end.
    """
    try:
        old = psutil.Process(pid)
        if abs(old.create_time() - started_at) > 1:
            return False
        old.terminate()
        old.wait(grace_seconds)
    except psutil.NoSuchProcess:
        return False
    except psutil.TimeoutExpired:
        kill_group(pid)
        with contextlib.suppress(psutil.TimeoutExpired):
            old.wait(10)
    return True


def _reader(pipe: IO[bytes] | None, take: Callable[[str], None]) -> threading.Thread:
    """A thread that hands on each line of a pipe until it closes."""
    assert pipe is not None  # noqa: S101 - we asked for the pipe

    def read() -> None:
        for line in pipe:
            text = line.decode(errors="replace").rstrip("\r\n")
            if text:
                take(text)

    thread = threading.Thread(target=read, name="engine-reader", daemon=True)
    thread.start()
    return thread
