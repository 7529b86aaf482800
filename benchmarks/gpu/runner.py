"""Runs the parts one after the other, each in a process that is ended when its share of the time has passed."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu.plan import STAND_INS, Part, Plan, is_missing

ROOT = Path(__file__).parents[2]
MARGIN_SECONDS, MARGIN_SHARE = 5.0, 0.1
"""The plan of a part ends so long before its process is ended."""
KILL_SECONDS = 5.0
"""Longest wait for the end of a killed process: one inside a driver that hangs cannot be ended."""
PROBE_SECONDS = 60.0
MIN_TORCH = (2, 9)

Command = Callable[[str, Plan], list[str]]
Line = dict[str, Any]


def own_command(name: str, plan: Plan) -> list[str]:
    """Command of a part's process."""
    return [sys.executable, "-m", "benchmarks.gpu.part", name, plan.dump()]


class Runner:
    """A run of all parts; results are printed as they come, and kept in a file."""

    def __init__(self, device: str, seconds: float, kept: TextIO | None, *, is_tiny: bool = False) -> None:
        self.device, self.is_tiny = device, is_tiny
        self._kept, self._began = kept, time.monotonic()
        self._ends_at = self._began + seconds
        self.has_failed = False

    def emit(self, line: Line) -> None:
        """Print a line, and keep it."""
        text = json.dumps(line | {"at_seconds": round(time.monotonic() - self._began, 1)})
        print(text, flush=True)
        if self._kept is not None:
            self._kept.write(f"{text}\n")
            self._kept.flush()

    def probe(self, command: Command = own_command) -> Line | None:
        """Properties of the device, read by a process of its own; None where it is missing or hangs."""
        lines = self.run_part("device", min(PROBE_SECONDS, self._ends_at - time.monotonic()), command)
        return next((line for line in lines if "torch" in line), None)

    def run(self, parts: Sequence[Part], command: Command = own_command) -> None:
        """Run the parts. What one leaves of its share goes to those after it."""
        for number, part in enumerate(parts):
            shares = sum(each.share for each in parts[number:])
            self.run_part(part.name, (self._ends_at - time.monotonic()) * part.share / shares, command)

    def run_part(self, name: str, seconds: float, command: Command = own_command) -> list[Line]:
        """Run a part for so many seconds at most; returns its lines, each of which was emitted as it came."""
        limit = time.monotonic() + seconds
        margin = min(MARGIN_SECONDS, MARGIN_SHARE * seconds)
        plan = Plan(self.device, time.time() + seconds - margin, self.is_tiny)
        child = _Child(command(name, plan))
        found: list[Line] = []
        while (text := child.line(limit - time.monotonic())) is not None:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    found.append({"part": name, **line})
                    self.emit(found[-1])
        is_late = time.monotonic() >= limit
        has_ended = child.end(at_once=is_late)
        if is_late:
            self._fail(name, f"ended after its share of {seconds:.0f} s")
        elif child.code != 0:
            self._fail(name, child.last_error or f"its process ended with the code {child.code}")
        if not has_ended:
            self._fail(name, "its process could not be ended: the driver hangs")
        return found

    def _fail(self, name: str, reason: str) -> None:
        self.has_failed = True
        self.emit({"part": name, "failed": reason})


class _Child:
    """A process in a group of its own; its output by lines."""

    def __init__(self, command: Sequence[str]) -> None:
        search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        if is_missing("pydantic"):
            search.append(str(STAND_INS))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search),
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((self._process.stdout, self._lines.put), (self._process.stderr, self._errors.append))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: TextIO, take: Callable[[str], None]) -> None:
        with contextlib.suppress(ValueError):
            for line in pipe:
                take(line)
        if pipe is self._process.stdout:
            self._lines.put(None)

    def line(self, seconds: float) -> str | None:
        """The next line of output; None at its end, or after so many seconds."""
        with contextlib.suppress(queue.Empty):
            return self._lines.get(timeout=max(0.0, seconds))
        return None

    def end(self, *, at_once: bool) -> bool:
        """Wait for the end of the process, or end it with all that it started; whether it has ended."""
        for is_killed in (at_once, True):
            if is_killed:
                kill(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_SECONDS)
                for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
                    reader.join(KILL_SECONDS)
                    if pipe is not None and not reader.is_alive():
                        pipe.close()
                return True
        return False

    @property
    def code(self) -> int | None:
        """Exit code."""
        return self._process.returncode

    @property
    def last_error(self) -> str:
        """The last line of its standard error."""
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else ""


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process, and its group where the system has such."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
