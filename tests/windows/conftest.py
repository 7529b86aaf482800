"""The installed product on Windows: its programs as processes, whose output goes into pipes in an older code page."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rvc_train.cli.services import free_port
from rvc_train.client import Client, connect
from rvc_train.schemas.jobs import JobPublic
from tests.systems import IS_WINE

TOKEN = "the-token-of-windows"
NAME = "小红"
"""A voice whose name no character of cp1252 is in."""
SAMPLES = Path(__file__).parents[2] / "samples"
# fmt: off
TRAINING = (
    "--width", "24", "--content", "whisper-tiny", "--pretrained", "none", "--total-epochs", "3", "--batch-size", "4",
    "--checkpoint-every-steps", "1",
)
# fmt: on


class Program:
    """A program of ours, with its output collected from a pipe."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            for line in pipe:
                self.text += line.decode(errors="replace")

    def end(self) -> None:
        """TerminateProcess: what the task manager does."""
        self.process.kill()
        self.process.wait(30)
        self._reader.join(30)

    def wait(self, seconds: float) -> int:
        code = self.process.wait(seconds)
        self._reader.join(30)
        return code


class Home:
    """A data folder with a name in Chinese, and the programs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "数据"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(connect(self.url, TOKEN))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RVC_TRAIN_")}
        settings = {"DATA_FOLDER": str(self.data), "PORT": str(self.port), "TOKEN": TOKEN, "SERVER": self.url}
        settings |= {"DEVICE": "cpu", "LEASE_SECONDS": "10", "HEARTBEAT_SECONDS": "1", "POLL_SECONDS": "0.5"}
        settings |= {"RETRY_DELAY_SECONDS": "0"}
        if IS_WINE:  # which does not ask the kernel for the state of AMX, though the processor reports it
            kept |= {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
            settings |= {"ENGINE_ENVIRONMENT": "ONEDNN_MAX_CPU_ISA"}
        self.environment = kept | {f"RVC_TRAIN_{name}": value for name, value in settings.items()} | {"PYTHONUTF8": "0"}
        self.programs: list[Program] = []

    def start(self, *words: str, **variables: str) -> Program:
        program = Program(self.environment | variables, *words)
        self.programs.append(program)
        return program

    def start_server(self) -> Program:
        server = self.start("server")
        self.wait_until(self.client.is_ready, "the server", 120)
        return server

    def cli(self, *words: str, encoding: str = "cp1252", seconds: float = 120) -> str:
        """Output of `rvc-train WORDS` into a pipe with this code page, as an older console has it; it succeeds."""
        command = [sys.executable, "-P", "-m", "rvc_train.cli.main", *words]
        environment = self.environment | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False)
        output = done.stdout.decode(encoding) + done.stderr.decode(encoding)
        assert done.returncode == 0, output + self.words()
        return output

    def submit(self) -> JobPublic:
        """Submit the training of all tests: each makes the same voice."""
        self.cli("submit", "last", "--name", NAME, *TRAINING)
        return next(iter(self.client.jobs()))

    def wait_for(self, job: JobPublic, *statuses: str, seconds: float = 200) -> JobPublic:
        self.wait_until(lambda: self.client.job(job.id).status in statuses, str(statuses), seconds)
        return self.client.job(job.id)

    def wait_for_step(self, job: JobPublic, step: int) -> None:
        """Wait until a checkpoint of this step is saved."""

        def is_saved() -> bool:
            events = self.client.events(job.id)
            return any(event.type == "checkpoint_saved" and event.data.get("step", 0) >= step for event in events)

        self.wait_until(is_saved, f"the checkpoint of step {step}", 200)

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}\n{self.words()}"
            time.sleep(0.2)

    def running(self) -> list[list[str]]:
        """Command lines of the programs that still run on the data folder: server, workers, engines, reports."""
        ours = re.compile(r"^(server|worker|rvc_engine|server\.datasets\.sandbox)$")
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if any(ours.match(word) for word in words):
                found.append(words)
        return found

    def words(self) -> str:
        """The last words of the programs, for a test that fails."""
        return "\n".join(f"---\n{program.text[-3000:]}" for program in self.programs)

    def close(self) -> None:
        self.client.close()
        for program in self.programs:
            program.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    yield made
    made.close()
