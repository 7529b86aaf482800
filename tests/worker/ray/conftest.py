"""A cluster of Ray on this machine with made-up GPUs, a real server, and dispatchers, all of them as processes."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from sqlmodel import col

from rvc_engine.config import TrainingConfig
from rvc_train.cli.services import free_port
from rvc_train.schemas.access import Scope, TokenCreate
from rvc_train.schemas.jobs import JobCreate, JobStatus
from server.auth.tokens import TokenService
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Attempt, Job, Worker

ROOT = Path(__file__).parents[3]
LEASE_SECONDS = 20
WAIT_FOR_HEAD = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
"""Seconds after which nodes and programs of a cluster whose head is gone end; Ray's default is 60."""
ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


class Site:
    """A server with a Ray cluster beside it. Workers reach the server by HTTP alone."""

    def __init__(self, folder: Path, shop: Any) -> None:
        self.folder, self.shop = folder, shop
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        tokens = TokenService(shop.engine, utc_now, "", 1)
        self.token: str = tokens.create(TokenCreate(owner="machines", scopes=[Scope.WORK]))[1]
        self.server: subprocess.Popen[bytes] | None = None
        self.nodes: dict[str, Any] = {}
        self.dispatchers: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count()
        self.cluster = self._start_cluster()

    @staticmethod
    def _start_cluster(**head: Any) -> Any:
        """A head without resources. Ray gives a node 30 s to start, which are too few for a machine with other work."""
        from ray.cluster_utils import Cluster

        head |= {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
        for _ in range(3):
            try:
                return Cluster(initialize_head=True, head_node_args=head)
            except Exception as error:  # noqa: BLE001 - of no kind of its own
                print(error)
        raise AssertionError("Ray does not start; see above")

    # The cluster

    def add_node(self, name: str, num_gpus: int, **labels: str) -> None:
        """A node with made-up GPUs, whose workers have its name and labels."""
        engine = [sys.executable, str(ROOT / "tests/worker/scripted_engine.py"), str(self.shop.script)]
        settings = {
            "RVC_TRAIN_WORKER_NAME": name,
            "RVC_TRAIN_DATA_FOLDER": str(self.folder / name),
            "RVC_TRAIN_ENGINE_COMMAND": json.dumps(engine),
            "RVC_TRAIN_HEARTBEAT_SECONDS": "1",
            "RVC_TRAIN_WISH_SECONDS": "0.3",
            "RVC_TRAIN_POLL_SECONDS": "0.2",
            "RVC_TRAIN_RETRY_DELAY_SECONDS": "0",
            **WAIT_FOR_HEAD,
        }
        self.nodes[name] = self.cluster.add_node(num_cpus=8, num_gpus=num_gpus, labels=labels, env_vars=settings)

    def lose_node(self, name: str) -> None:
        """End a node as a loss of power would: nothing on it says a word more."""
        for process in self.processes(f"RVC_TRAIN_WORKER_NAME={name}"):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def lose_head(self) -> None:
        """End the head's processes; the nodes are still there."""
        for processes in self.cluster.head_node.all_processes.values():
            for info in processes:
                info.process.kill()

    def start_head(self) -> None:
        """Start a cluster at the address of the lost one, whose nodes have ended."""
        port = int(self.cluster.address.rpartition(":")[2])
        self.nodes.clear()
        self.cluster.shutdown()
        self.cluster = self._start_cluster(gcs_server_port=port)

    def end_all(self) -> None:
        """End dispatchers and nodes that a test has left."""
        for process in self.dispatchers:
            if process.poll() is None:
                self.kill(process)
        for name in list(self.nodes):
            self.lose_node(name)

    @staticmethod
    def processes(variable: str) -> list[psutil.Process]:
        """Processes with `NAME=VALUE` in their environment."""
        name, _, value = variable.partition("=")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(name) == value:
                    found.append(process)
        return found

    # Server and dispatcher

    def start_server(self, **more: str) -> None:
        settings = {
            "RVC_TRAIN_DATA_FOLDER": str(self.shop.folder),
            "RVC_TRAIN_PORT": str(self.port),
            "RVC_TRAIN_LEASE_SECONDS": str(LEASE_SECONDS),
            "RVC_TRAIN_REAPER_SECONDS": "0.5",
            "RVC_TRAIN_RETRY_DELAY_SECONDS": "0",
            **more,
        }
        self.server = self._run("server", "server", settings)
        self.wait_until(self._is_ready, "the server", 240)

    def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        return False

    def start_dispatcher(self, **options: object) -> subprocess.Popen[bytes]:
        """A dispatcher in a session of its own; its words are in a new file beside those of the others."""
        words = json.dumps({"address": self.cluster.address, "cpus_per_job": 1, "poll_seconds": 0.5, **options})
        settings = {"RVC_TRAIN_WORKER_SERVER": self.url, "RVC_TRAIN_TOKEN": self.token} | WAIT_FOR_HEAD
        process = self._run(f"dispatcher-{next(self._numbers)}", "worker.ray", settings, words)
        self.dispatchers.append(process)
        return process

    @contextmanager
    def dispatcher(self, **options: object) -> Iterator[None]:
        process = self.start_dispatcher(**options)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """End a process and its children with SIGKILL."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _run(self, name: str, module: str, settings: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RVC_TRAIN_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=inherited | settings,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def words(self) -> str:
        """What dispatchers and server wrote."""
        return "".join(f"--- {log.name}\n" + log.read_text()[-6000:] for log in sorted(self.folder.glob("*.log")))

    def dispatchers_words(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob("dispatcher-*.log")))

    # Jobs

    def submit(self, *steps: list[object], owner: str = "local", **resources: object) -> str:
        """A job whose engine follows the script, as all do from now on."""
        self.shop.script.write_text(json.dumps([*steps, *self.shop.MAKE_VOICE]))
        config = TrainingConfig(width=24, pretrained="none")
        fields = {"name": "anna", "dataset_id": self.shop.dataset_id, "config": config, "resources": resources}
        return self.shop.jobs.submit(JobCreate.model_validate(fields), owner=owner).job_id

    def statuses(self, job_ids: list[str]) -> dict[str, str]:
        with read_session(self.shop.engine) as session:
            rows = session.execute(sa.select(col(Job.id), col(Job.status)).where(col(Job.id).in_(job_ids)))
            return dict(tuple(row) for row in rows)

    def wait_for(self, job_ids: list[str], status: JobStatus, seconds: float) -> None:
        def are() -> bool:
            statuses = set(self.statuses(job_ids).values())
            assert status not in ENDED or not statuses & (ENDED - {status}), self.statuses(job_ids)
            return statuses == {status}

        self.wait_until(are, f"{len(job_ids)} jobs to be {status}", seconds)

    def attempts(self, job_id: str) -> list[tuple[str, str | None, str, dict[str, str]]]:
        """Token, outcome, and the worker's name and labels, of each attempt."""
        columns = (col(Attempt.token), col(Attempt.outcome), col(Worker.name), col(Worker.labels))
        query = (
            sa.select(*columns)
            .join(Job, col(Job.number) == col(Attempt.job_number))
            .join(Worker, col(Worker.id) == col(Attempt.worker_id))
            .where(col(Job.id) == job_id)
            .order_by(col(Attempt.token))
        )
        with read_session(self.shop.engine) as session:
            return [tuple(row) for row in session.execute(query)]

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}\n{self.words()}"
            time.sleep(0.2)

    def close(self) -> None:
        self.end_all()
        self.cluster.shutdown()
        if self.server is not None:
            self.kill_server()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, open_shop: Any) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "server").mkdir()
    with open_shop(folder / "server") as shop:
        made = Site(folder, shop)
        try:
            made.start_server()
            yield made
        finally:
            made.close()
