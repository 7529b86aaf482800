"""A server and workers as child processes: started, relayed, started again when one dies, stopped together.

`rvc-train up` and the demo use this. Neither program is imported: they are run as `python -P -m server` and
`python -P -m worker`, in the process group of the caller, so that Ctrl-C reaches all of them.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from rvc_engine.child_processes import inherited_environment, name_collision, python_command
from rvc_engine.installation import install_command
from rvc_train.client import Client, connect
from rvc_train.errors import ClientError

Relay = Callable[[str, str], None]
"""Takes (name of the service, line of its output)."""

PR_SET_PDEATHSIG = 1
"""From Linux' `prctl.h`."""
SECONDS_TO_START = 60
SECONDS_TO_STOP = 150
"""A draining worker's engine finishes its step and saves a checkpoint."""
SECONDS_TO_COUNT_AS_STARTED = 10
"""A service that dies sooner would die again: it is not started anew."""


class ServiceDied(ClientError):
    """A service ended by itself and starting it again would not help."""


@dataclass
class Service:
    """One program and its present process."""

    name: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what all services have."""
    may_end: bool = False
    """Whether an end with exit code 0 is one that somebody wanted: of a drained worker."""
    is_over: bool = False


@dataclass
class Services:
    """A server and its workers on one data folder. A context manager: leaving it stops all."""

    data_folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    devices: Sequence[str] = ("auto",)
    """A worker for each: `auto`, `cpu`, `cuda:0`, or `cuda:0+cuda:1` for two that train one job together."""
    token: str | None = None
    relay: Relay = lambda name, line: None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    services: list[Service] = field(init=False)

    def __post_init__(self) -> None:
        """Name the programs; none is started."""
        shared = {"RVC_TRAIN_ENGINES_PER_MACHINE": str(len(self.devices))} if len(self.devices) > 1 else {}
        self.services = [Service("server", python_command("server"))]
        for device in self.devices:
            name = "worker" if len(self.devices) == 1 else f"worker {device}"
            words = {"RVC_TRAIN_DEVICE": device, **shared}
            self.services.append(Service(name, python_command("worker"), environment=words, may_end=True))

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
        """Start the server and, once it is ready, the workers. Raises ServiceDied when one will not run."""
        if find_spec("uvicorn") is None or find_spec("sqlmodel") is None:
            raise ServiceDied(
                f"this is the client alone; for a server and a worker install the rest: {install_command('all')}"
            )
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
        """Start again whichever service has died, but for drained workers. ServiceDied for one that dies at once."""
        for service in self.services:
            if service.process is None or service.is_over or service.process.poll() is None:
                continue
            code = service.process.returncode
            if code == 0 and service.may_end:
                service.is_over = True
                self.relay(service.name, "ended, as it was asked to; it comes back with the next `rvc-train up`")
                continue
            lived = time.monotonic() - service.started_at
            if lived < SECONDS_TO_COUNT_AS_STARTED:
                raise ServiceDied(
                    f"the {service.name} ended after {lived:.0f} s with exit code {code}; see its last lines"
                )
            self.relay(service.name, f"ended with exit code {code}; starting it again")
            self._start(service)

    def stop(self) -> None:
        """Ask all to end, workers after a checkpoint; kill what does not."""
        running = [s.process for s in self.services if s.process is not None and s.process.poll() is None]
        try:
            for process in running:
                process.terminate()
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
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one system call, looked up before the fork
            env=self._environment() | dict(service.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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
        ours = {
            "RVC_TRAIN_DATA_FOLDER": str(self.data_folder),
            "RVC_TRAIN_HOST": self.host,
            "RVC_TRAIN_PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
        }
        if self.token:
            ours["RVC_TRAIN_TOKEN"] = self.token
        return inherited_environment(self.environment) | ours

    def _wait_until_ready(self, service: Service) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        with connect(self.url, self.token) as http:
            client = Client(http)
            while not client.is_ready():
                if service.process is None or service.process.poll() is not None:
                    raise ServiceDied("the server did not start; its own words stand above")
                if time.monotonic() > deadline:
                    raise ServiceDied(f"the server was not ready after {SECONDS_TO_START} s; its own words stand above")
                time.sleep(0.1)


def _end_with_parent() -> Callable[[], object] | None:
    """For a child to do before it becomes its program: ask the system for SIGTERM when we die, even by kill -9.

    Linux alone has this; elsewhere services outlive a killed parent.
    """
    if not sys.platform.startswith("linux"):
        return None
    set_death_signal = ctypes.CDLL(None).prctl
    return partial(set_death_signal, PR_SET_PDEATHSIG, signal.SIGTERM)


def check_port_is_free(host: str, port: int) -> None:
    """Raise ServiceDied when something listens there already: its answers would be taken for our server's."""
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
    """A port of the loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
