"""A server and workers as child processes: start, relay of their output, restart after a crash, stop.

Used by `rvc-train up` and the demo. Neither program is imported: they run as `python -P -m server` and
`python -P -m worker`, in the process group of the caller, so that Ctrl-C reaches all of them. They stop when their
standard input ends, so also when the caller is killed.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from rvc_engine.child_processes import inherited_environment, name_collision, python_command
from rvc_engine.environment.processes import STOPS_WITH_PARENT, ask_to_stop, no_window
from rvc_engine.installation import install_command
from rvc_engine.translation.messages import translated
from rvc_train.cli import exit_codes
from rvc_train.client import Client
from rvc_train.errors import ClientError

Relay = Callable[[str, str], None]
"""Called with (name of the service, line of its output)."""

SECONDS_TO_START = 60
SECONDS_TO_STOP = 150
"""Includes the current step and a checkpoint of a draining worker's engine."""
WORKER_ENDS = frozenset(
    {
        exit_codes.DONE,
        exit_codes.JOB_FAILED,
        exit_codes.WORKER_RAN_NOTHING,
        exit_codes.WORKER_HANDED_BACK,
    }
)
SECONDS_TO_COUNT_AS_STARTED = 10
"""A service that ends sooner would do so again, and is not restarted."""


class ServiceDied(ClientError):
    """A service ended by itself, and a restart would not help."""


@dataclass
class Service:
    """One program and its current process."""

    name: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to those of all services."""
    may_end: bool = False
    """Whether one of `WORKER_ENDS` is a requested end, as of a drained worker."""
    is_over: bool = False


@dataclass
class Services:
    """A server and its workers on one data folder. As a context manager it starts and stops them."""

    data_folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    devices: Sequence[str] = ("auto",)
    """Devices with a worker each: `auto`, `cpu`, `cuda:0`, or `cuda:0+cuda:1` for one job on two GPUs."""
    jobs_per_device: int = 1
    token: str | None = None
    """None: the server's local token."""
    relay: Relay = lambda name, line: None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    services: list[Service] = field(init=False)

    def __post_init__(self) -> None:
        """Define the services; none is started."""
        shared = {"RVC_TRAIN_ENGINES_PER_MACHINE": str(len(self.devices))} if len(self.devices) > 1 else {}
        settings = {"RVC_TRAIN_HOST": self.host, "RVC_TRAIN_PORT": str(self.port)}
        settings |= {"RVC_TRAIN_TOKEN": self.token} if self.token else {"RVC_TRAIN_LOCAL_TOKEN": "true"}
        self.services = [Service("server", python_command("server", STOPS_WITH_PARENT), environment=settings)]
        for device in self.devices:
            name = "worker" if len(self.devices) == 1 else f"worker {device}"
            jobs = {"RVC_TRAIN_JOBS_PER_DEVICE": str(self.jobs_per_device)}
            environment = {"RVC_TRAIN_DEVICE": device, **jobs, **shared}
            self.services.append(
                Service(name, python_command("worker", STOPS_WITH_PARENT), environment=environment, may_end=True)
            )

    @property
    def url(self) -> str:
        """Address for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and, once it is ready, the workers. Raises ServiceDied when one does not start."""
        if find_spec("uvicorn") is None or find_spec("sqlmodel") is None:
            raise ServiceDied(f"only the client is installed; install server and worker with: {install_command('all')}")
        for name in ("server", "worker"):
            collision = name_collision(name)
            if collision is not None:
                raise ServiceDied(collision)
        check_port_is_free(self.host, self.port)
        try:
            for service in self.services:
                self._start(service)
                if service.name == "server":
                    self._wait_until_ready(service)
        except BaseException:
            self.stop()
            raise

    def watch_once(self) -> None:
        """Restart services that ended, except drained workers. Raises ServiceDied for one that ended at once."""
        for service in self.services:
            if service.process is None or service.is_over or service.process.poll() is None:
                continue
            ask_to_stop(service.process)  # which closes its input
            code = service.process.returncode
            if code in WORKER_ENDS and service.may_end:
                service.is_over = True
                self.relay(service.name, translated("ended on request; the next `rvc-train up` starts it again"))
                continue
            lived = time.monotonic() - service.started_at
            if lived < SECONDS_TO_COUNT_AS_STARTED:
                raise ServiceDied(
                    f"the {service.name} ended after {lived:.0f} s with exit code {code}; see its output above"
                )
            self.relay(service.name, translated(f"ended with exit code {code}; starting it again"))
            self._start(service)

    def stop(self) -> None:
        """Stop all services, workers after a checkpoint; kill those that do not end in time."""
        running = [s.process for s in self.services if s.process is not None and s.process.poll() is None]
        try:
            for process in running:
                ask_to_stop(process)
            deadline = time.monotonic() + SECONDS_TO_STOP
            for process in running:
                process.wait(max(deadline - time.monotonic(), 0.1))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            for process in running:
                process.kill()
        for process in running:
            process.wait()

    def _start(self, service: Service) -> None:
        service.process = subprocess.Popen(
            service.command,
            env=self._environment() | dict(service.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            creationflags=no_window(),
            encoding="utf-8",
            errors="replace",
        )
        service.started_at = time.monotonic()
        threading.Thread(target=self._read, args=(service.name, service.process), daemon=True).start()

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            with process.stdout as output:
                for line in output:
                    self.relay(name, line.rstrip())

    def _environment(self) -> dict[str, str]:
        settings = {"RVC_TRAIN_DATA_FOLDER": str(self.data_folder), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        return inherited_environment(self.environment) | settings

    def _wait_until_ready(self, service: Service) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        with httpx.Client(base_url=self.url, trust_env=False) as http:  # this machine's own server, by no proxy
            client = Client(http)
            while not client.is_ready():
                if service.process is None or service.process.poll() is not None:
                    raise ServiceDied("the server did not start; see its output above")
                if time.monotonic() > deadline:
                    raise ServiceDied(f"the server was not ready after {SECONDS_TO_START} s; see its output above")
                time.sleep(0.1)


def check_port_is_free(host: str, port: int) -> None:
    """Raise ServiceDied when a program already listens there: its answers would be taken for the server's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceDied(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
            ) from error


def free_port() -> int:
    """An unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
