"""Programs of this project, started as forks of one process that has imported them; see forking_programs.py."""

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Fork:
    """A program that was started by `Forks`, with what the tests need of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended = threading.Event()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Starts programs of this project as forks of one process that has imported them; see forking_programs.py."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking_programs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        self._forks: dict[int, Fork] = {}
        self._started: queue.Queue[Fork] = queue.Queue()
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(
        self, module: str, *arguments: str, environment: dict[str, str], folder: Path, output: Path, errors: Path
    ) -> Fork:
        request = {"module": module, "arguments": arguments, "environment": environment, "folder": str(folder)}
        line = json.dumps(request | {"output": str(output), "errors": str(errors)})
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
            return self._started.get(timeout=60)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event, pid, *code = line.split()
            if event == b"started":
                fork = self._forks[int(pid)] = Fork(int(pid))
                self._started.put(fork)
            else:
                fork = self._forks.pop(int(pid))
                fork.returncode = int(code[0])
                fork.ended.set()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join(30)
        self._process.stdout.close()


@functools.cache
def forks() -> Forks:
    """The one of this session."""
    made = Forks()
    atexit.register(made.close)
    return made


def start_program(
    module: str, *arguments: str, environment: Mapping[str, str], output: Path, errors: Path
) -> Fork | subprocess.Popen[bytes]:
    """`python -m MODULE ARGUMENTS`, whose output is appended to files."""
    if sys.platform != "win32":
        start = forks().start
        return start(module, *arguments, environment=dict(environment), folder=ROOT, output=output, errors=errors)
    command = [sys.executable, "-m", module, *arguments]  # nothing forks there
    with output.open("ab") as out, errors.open("ab") as err:
        return subprocess.Popen(command, env=dict(environment), cwd=ROOT, stdout=out, stderr=err)


def run_program(
    module: str, *words: str, environment: Mapping[str, str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE WORDS`, to its end."""
    if sys.platform == "win32":  # where nothing forks
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(
            command,
            env=dict(environment),
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = forks().start(
            module, *words, environment=dict(environment), folder=ROOT, output=output, errors=errors
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess([module, *words], code, output.read_text(), errors.read_text())
