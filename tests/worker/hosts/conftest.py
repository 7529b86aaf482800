"""Hosts as network namespaces, each with files of its own, and a server on PostgreSQL that they reach by an address."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.database.engine import create_engine, migrate
from tests.conftest import Postgres
from tests.worker.ray.conftest import ROOT, Site

NUM_HOSTS = 3


class Host:
    """A network namespace with a cable to the server's, and a mount namespace without the server's files."""

    def __init__(self, number: int) -> None:
        self.name = f"rvc{os.getpid()}-{number}"
        network = f"10.213.{os.getpid() % 256}"
        self.server = f"{network}.{4 * number + 1}"
        inside, outside = f"in{os.getpid()}{number}", f"out{os.getpid()}{number}"
        self._ip("netns", "add", self.name)
        self._ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        self._ip("address", "add", f"{self.server}/30", "dev", outside)
        self._ip("link", "set", outside, "up")
        for command in (
            f"address add {network}.{4 * number + 2}/30 dev {inside}",
            f"link set {inside} up",
            "link set lo up",
        ):
            self._ip("-n", self.name, *command.split())

    def command(self, *words: str, hidden: Path) -> list[str]:
        """A command that runs on this host, which cannot see `hidden`."""
        script = f'mount -t tmpfs none "{hidden}" && exec "$@"'
        return ["ip", "netns", "exec", self.name, "sh", "-c", script, "sh", *words]

    def lose(self) -> None:
        """End all that runs there at once, as a loss of power would."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False).stdout
        for pid in pids.split():
            with contextlib.suppress(psutil.Error):
                psutil.Process(int(pid)).kill()

    def close(self) -> None:
        self.lose()
        subprocess.run(["ip", "netns", "delete", self.name], check=False)  # and its cable

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts(Site):
    """A server, and workers on other hosts, without Ray."""

    def __init__(self, folder: Path, shop: Any, hosts: list[Host]) -> None:
        super().__init__(folder, shop)
        self.hosts = hosts
        self.workers: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def _start_cluster() -> None:
        """None."""

    def start_server(self, **more: str) -> None:
        """One that listens on the hosts' cables."""
        database = {"RVC_TRAIN_DATABASE_URL": self.shop.url}
        super().start_server(RVC_TRAIN_HOST="0.0.0.0", RVC_TRAIN_TOKEN="the-administrators", **database, **more)  # noqa: S104

    def start_worker(self, host: Host) -> None:
        """`rvc-train worker --server URL` there."""
        engine = [sys.executable, str(ROOT / "tests/worker/scripted_engine.py"), str(self.shop.script)]
        folder = self.folder / host.name
        settings = {
            "RVC_TRAIN_TOKEN": self.token,
            "RVC_TRAIN_WORKER_NAME": host.name,
            "RVC_TRAIN_DEVICE": "cpu",
            "RVC_TRAIN_CALIBRATE": "false",
            "RVC_TRAIN_ENGINE_COMMAND": json.dumps(engine),
            "RVC_TRAIN_HEARTBEAT_SECONDS": "1",
            "RVC_TRAIN_RETRY_DELAY_SECONDS": "0",
        }
        url = f"http://{host.server}:{self.port}"
        words = ("-m", "rvc_train.cli.main", "worker", "--server", url, "--data", str(folder))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RVC_TRAIN_")}
        with (self.folder / f"{host.name}.log").open("ab") as log:
            command = host.command(sys.executable, *words, hidden=self.shop.folder)
            self.workers.append(subprocess.Popen(command, env=inherited | settings, cwd=ROOT, stdout=log, stderr=log))

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        for worker in self.workers:
            worker.wait(30)
        if self.server is not None:
            self.kill_server()


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL that this file restarts."""
    with tempfile.TemporaryDirectory(prefix="rvc-postgres-") as folder:
        made = Postgres(Path(folder))
        yield made
        made.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, open_shop: Any, database: Postgres) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip (Debian: iproute2)")
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "server").mkdir()
    url = database.new_database()
    engine = create_engine(url)
    migrate(engine)
    engine.dispose()
    hosts: list[Host] = []
    try:
        for number in range(NUM_HOSTS):
            hosts.append(Host(number))
    except subprocess.CalledProcessError as error:
        for host in hosts:
            host.close()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    with open_shop(folder / "server", url) as shop:
        shop.script = folder / "script.json"  # all else in its folder is the server's
        made = Hosts(folder, shop, hosts)
        try:
            made.start_server()
            yield made
        finally:
            made.close()
