"""A job service on real SQLite, a clock to turn by hand, and a real server on loopback with a stand-in for the report.

With `RVC_TRAIN_TEST_POSTGRES` the database lies on PostgreSQL.
"""

import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
import structlog
import uvicorn

from rvc_engine.events import ArtifactReady
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate
from server.__main__ import Server
from server.app import create_app
from server.context import AppContext
from server.database.engine import create_engine, migrate, write_session
from server.database.tables import Dataset, Job, new_id
from server.http.connections import Connection
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.storage.local import Storage
from tests.migrated import migrated_database, provide_database
from tests.programs import Fork, start_program
from tests.systems import WAIT_FACTOR

FIRST_TOKEN = "the-first-token-of-all"
USUAL_TOKEN = "the-token-of-any-server"
"""Of servers for which a test names none; their clients send it, without limits on their rates."""
FAKE_REPORT = Path(__file__).parent / "fake_report.py"


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> Iterator[None]:
    """Log without structlog's colours and drawn tracebacks, which take seconds."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    yield
    structlog.reset_defaults()


@dataclass
class Clock:
    """Time that passes when told to."""

    now: datetime = field(default_factory=lambda: datetime(2026, 11, 1, 12, 0, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def empty_database() -> Path:
    """A migrated database file, to be copied: migrating once is enough."""
    return migrated_database()


POSTGRES = os.environ.get("RVC_TRAIN_TEST_POSTGRES")
"""URL of a PostgreSQL server on which to test in place of SQLite, such as `postgresql+psycopg://me@127.0.0.1/postgres`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if POSTGRES is not None and item.get_closest_marker("sqlite"):
            item.add_marker(pytest.mark.skip(reason="is of SQLite's own ways"))


def postgres_url(folder: Path) -> str | None:
    """URL of a database for this folder, created on first use. None: SQLite in the folder."""
    if POSTGRES is None:
        return None
    name = "rvc_" + hashlib.sha256(str(folder).encode()).hexdigest()[:20]
    server = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        if not connection.scalar(sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}):
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return sa.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    provide_database(tmp_path)
    engine = create_engine(postgres_url(tmp_path) or f"sqlite:///{tmp_path / 'rvc-train.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job_service(engine: sa.Engine, clock: Clock) -> JobService:
    return JobService(engine, clock, retry_delay_seconds=10, max_recoveries=2)


@dataclass
class Bench:
    """A job service, with helpers for tests."""

    jobs: JobService
    clock: Clock

    def dataset(self, status: DatasetStatus = DatasetStatus.READY) -> str:
        with write_session(self.jobs.engine) as session:
            reason = "it is silent" if status is DatasetStatus.INVALID else None
            row = Dataset(
                id=new_id("ds"),
                name="anna",
                sha256=new_id("x"),
                size=1,
                num_files=1,
                status=status,
                reason=reason,
                created_at=self.clock(),
            )
            session.add(row)
            return row.id

    def job(self, status: DatasetStatus = DatasetStatus.READY, **request: object) -> Job:
        fields = {"name": "anna", "dataset_id": self.dataset(status), **request}
        return self.jobs.get(self.jobs.submit(JobCreate(**fields)).job_id)

    def worker(self) -> str:
        return self.jobs.register_worker("worker", os.getpid(), "here", "cpu")

    def claim(self) -> Lease:
        lease = self.jobs.claim(self.worker())
        assert lease is not None
        return lease

    def publish(self, lease: Lease) -> None:
        self.jobs.publish_artifact(
            lease, "voice", "anna.pth", f"jobs/{lease.job_id}/attempts/000001/artifacts/00", 3, "00"
        )


@pytest.fixture
def bench(job_service: JobService, clock: Clock) -> Bench:
    return Bench(job_service, clock)


@dataclass
class Running:
    """A server on loopback."""

    url: str
    context: AppContext
    server: Server

    def client(self, **headers: str) -> httpx.Client:
        token = self.context.settings.token
        is_usual = token is not None and token.get_secret_value() == USUAL_TOKEN
        usual = {"Authorization": f"Bearer {USUAL_TOKEN}"} if is_usual else {}
        return httpx.Client(base_url=self.url, headers=usual | headers, timeout=20)

    @property
    def bench(self) -> Bench:
        return Bench(self.context.jobs, Clock(datetime.now(UTC)))


def settings_for(folder: Path, **more: object) -> ServerSettings:
    defaults: dict[str, object] = {
        "data_folder": folder,
        "database_url": postgres_url(folder),
        "report_command": [sys.executable, str(FAKE_REPORT)],
        "follow_poll_seconds": 0.02,
        "disk_reserve_bytes": 0,
    }
    if "token" not in more:
        limits = dict.fromkeys(("writes_per_minute", "requests_per_minute", "refusals_per_minute"))
        defaults |= {"token": USUAL_TOKEN, **limits}
    return ServerSettings(**(defaults | more))


class ConnectionsByThread:
    """How many connections each thread has from the pool: with a second one, pollers could wait for each other."""

    def __init__(self, engine: sa.Engine) -> None:
        self.held: Counter[int] = Counter()
        self.second_takes: list[str] = []
        sa.event.listen(engine, "checkout", self._take)
        sa.event.listen(engine, "checkin", self._give)

    def _take(self, *_: object) -> None:
        thread = threading.get_ident()
        self.held[thread] += 1
        if self.held[thread] > 1:
            self.second_takes.append("".join(traceback.format_stack(limit=20)))

    def _give(self, *_: object) -> None:
        self.held[threading.get_ident()] -= 1


@contextmanager
def running(settings: ServerSettings, port: int = 0) -> Iterator[Running]:
    """Serve in a thread until the block ends. `port` 0: any free one."""
    if settings.database_url is None:
        provide_database(settings.data_folder)
    app = create_app(settings)
    connections = ConnectionsByThread(app.state.context.engine)
    config = uvicorn.Config(app, http=Connection, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = Server(config, app.state.context)
    # With its protocol named, or asyncio leaves Nagle's algorithm on, and each answer takes 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        try:
            assert server.started
            yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.context, server)
        finally:
            app.state.context.stopping.set()
            server.should_exit = True
            thread.join()
    assert not connections.second_takes, connections.second_takes[0]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of a module."""
    with running(settings_for(tmp_path_factory.mktemp("data"))) as server:
        yield server


@pytest.fixture
def http(live: Running) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


def wait_until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds * WAIT_FACTOR
    while not is_so():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def finished_job(live: Running, content: bytes, name: str = "anna") -> str:
    """A job that succeeded, its voice being a file of these bytes; returns its id."""
    bench = live.bench
    job = bench.job(name=name, priority=100)
    lease = bench.claim()
    assert lease.job_id == job.id
    publish(live.context, lease, content, f"{name}.pth")
    bench.jobs.succeed(lease)
    return job.id


def publish(context: AppContext, lease: Lease, content: bytes, name: str) -> None:
    source = context.storage.workspace(lease.job_id) / "weights" / "made"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content)
    stored = context.storage.store_artifact(lease.job_id, lease.token, source, name)
    said = ArtifactReady(kind="voice", name=name, path=str(source), size=stored.size, sha256=stored.sha256)
    context.jobs.publish_artifact(lease, said.kind, said.name, stored.path, stored.size, stored.sha256)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "data")


# Helpers that tests cannot import (test folders are no packages) come as fixtures.


@pytest.fixture(scope="session")
def authorized() -> dict[str, str]:
    """Headers with the token of a server for which a test names none."""
    return {"Authorization": f"Bearer {USUAL_TOKEN}"}


@pytest.fixture
def eventually() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def zipped() -> Callable[..., bytes]:
    return zip_of


@pytest.fixture(scope="module")
def serve_for_module() -> Callable[..., object]:
    """As `serve`, for servers that last for a module."""

    def serving(folder: Path, **more: object) -> object:
        return running(settings_for(folder, **more))

    return serving


@pytest.fixture
def serve() -> Callable[..., object]:
    """`with serve(folder, **settings) as server`: a separate server."""

    def serving(folder: Path, port: int = 0, **more: object) -> object:
        return running(settings_for(folder, **more), port)

    return serving


@pytest.fixture
def finished(live: Running) -> Callable[..., str]:
    """`finished(content, name)`: a job that succeeded, its voice being a file of these bytes."""

    def finish(content: bytes, name: str = "anna") -> str:
        return finished_job(live, content, name)

    return finish


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., tuple[Fork | subprocess.Popen[bytes], str]]]:
    """`started(**environment)`: a server process that is ready, ended at the end of the test.

    `is_measured`: one whose memory holds nothing but what it loaded itself, which takes it seconds.
    """
    children: list[Fork | subprocess.Popen[bytes]] = []

    def start(is_measured: bool = False, **environment: str) -> tuple[Fork | subprocess.Popen[bytes], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        usual = {"RVC_TRAIN_DATA_FOLDER": str(tmp_path / "data"), "RVC_TRAIN_TOKEN": USUAL_TOKEN}
        env = os.environ | usual | {"RVC_TRAIN_PORT": str(port)} | environment
        log = tmp_path / "server.log"
        child: Fork | subprocess.Popen[bytes]
        if is_measured:
            with log.open("wb") as file:
                child = subprocess.Popen([sys.executable, "-m", "server"], env=env, stderr=file)
        else:
            log.unlink(missing_ok=True)
            output = tmp_path / "server.out"
            child = start_program("server", environment=env, output=output, errors=log)
        children.append(child)
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            assert child.poll() is None, (tmp_path / "server.log").read_text()
            try:
                return httpx.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, 60)
        return child, url

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()


# A server with tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a first token."""
    folder = tmp_path_factory.mktemp("guarded")
    limits = dict.fromkeys(("writes_per_minute", "requests_per_minute", "refusals_per_minute"))
    with running(settings_for(folder, token=FIRST_TOKEN, **limits)) as server:
        yield server


@pytest.fixture
def administrator(guarded: Running) -> Iterator[httpx.Client]:
    with guarded.client(Authorization=f"Bearer {FIRST_TOKEN}") as http:
        yield http


@pytest.fixture
def holder(guarded: Running, administrator: httpx.Client) -> Iterator[Callable[..., httpx.Client]]:
    """`holder("anna", "read")`: a client with a token of that owner."""
    clients = []

    def hold(owner: str, *scopes: str) -> httpx.Client:
        made = administrator.post("/v1/tokens", json={"owner": owner, "scopes": list(scopes)})
        assert made.status_code == 201, made.text
        client = guarded.client(Authorization=f"Bearer {made.json()['secret']}")
        clients.append(client)
        return client

    yield hold
    for client in clients:
        client.close()
