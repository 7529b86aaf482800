"""A job service with a dataset, and workers whose engines follow a script."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import select

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate
from server.database.engine import create_engine, read_session, write_session
from server.database.result_tables import Artifact
from server.database.tables import Attempt, Dataset, Event, Job, new_id
from server.jobs.service import JobService
from server.storage.instances import open_instance
from server.storage.local import Storage
from tests.migrated import provide_database
from tests.programs import Fork, start_program
from tests.systems import WAIT_FACTOR
from worker.gateway.interface import JobLease, RegisteredWorker
from worker.gateway.local import LocalGateway
from worker.gateway.types import WorkerDescription
from worker.limits import ExitCode
from worker.loop import work
from worker.settings import WorkerSettings

SCRIPTED_ENGINE = Path(__file__).with_name("scripted_engine.py")


class Shop:
    """Data folder with a database, and queries for tests."""

    MAKE_VOICE = (["artifact", "voice", 64_000], ["artifact", "index", 3200], ["succeed"])
    """The end of every run that goes well."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        """`url`: another database than SQLite in the folder."""
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'rvc-train.db'}"
        if url is None:
            provide_database(folder)
        self.engine = create_engine(self.url)
        self.storage = Storage(folder)
        open_instance(self.engine, self.storage)
        self.jobs = JobService(self.engine, storage=self.storage)
        self.dataset_id = self._make_dataset()
        self.script = folder / "script.json"

    def _make_dataset(self) -> str:
        with read_session(self.engine) as session:
            if (present := session.exec(select(Dataset.id)).first()) is not None:
                return present
        dataset_id = new_id("ds")
        now = datetime.now(UTC)
        with write_session(self.engine) as session:
            session.add(
                Dataset(
                    id=dataset_id,
                    name="anna",
                    status=DatasetStatus.READY,
                    sha256="0" * 64,
                    size=1,
                    num_files=1,
                    created_at=now,
                    validated_at=now,
                )
            )
        self.storage.dataset_folder(dataset_id).mkdir(parents=True)
        return dataset_id

    def submit(self, script: list[list[object]], **request: object) -> str:
        """A job whose engine follows the script."""
        self.script.write_text(json.dumps(script))
        fields = {"name": "anna", "dataset_id": self.dataset_id, "config": TrainingConfig(width=24, pretrained="none")}
        return self.jobs.submit(JobCreate.model_validate(fields | request)).job_id

    def be_impatient(self) -> None:
        """Make a locked database unavailable after 0.05 s instead of 30 s."""
        sa.event.listen(self.engine, "checkout", lambda dbapi, *_: dbapi.execute("PRAGMA busy_timeout=50"))

    def settings(self, **changed: object) -> WorkerSettings:
        fast = {
            "data_folder": self.folder,
            "database_url": self.url,
            "engine_command": [sys.executable, str(SCRIPTED_ENGINE), str(self.script)],
            "poll_seconds": 0.02,
            "heartbeat_seconds": 0.2,
            "wish_seconds": 0.05,
            "record_seconds": 0.05,
            "stop_seconds": 5,
            "lock_wait_seconds": 10,
            "retry_delay_seconds": 0,
        }
        return WorkerSettings.model_validate(fast | changed)

    def gateway(self, **changed: object) -> LocalGateway:
        """The gateway of a worker with these settings."""
        return LocalGateway(self.settings(**changed), self.engine)

    def register(self, name: str = "w", **changed: object) -> RegisteredWorker:
        """A worker that does nothing by itself."""
        description = WorkerDescription(name, os.getpid(), "here", "cpu", "a CPU", "1", 10, True, 0, None)
        return self.gateway(**changed).register(description)

    def claim(self) -> JobLease:
        """The lease of a new worker on the next job."""
        lease = self.register().claim(is_repeated=False, job_id=None)
        assert lease is not None
        return lease

    def work(self, stop: threading.Event, **changed: object) -> ExitCode:
        """Run a worker in this thread."""
        gateway = self.gateway(**changed)
        try:
            return work(self.settings(**changed), gateway, stop)
        finally:
            gateway.close()

    @contextmanager
    def worker(self, **changed: object) -> Iterator[threading.Event]:
        """A worker that runs while the block does; gives the event that asks it to stop."""
        stop = threading.Event()
        thread = threading.Thread(target=self.work, args=(stop,), kwargs=changed)
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive(), "the worker did not stop"

    @contextmanager
    def worker_process(self, **changed: object) -> Iterator[Fork | subprocess.Popen[bytes]]:
        """A worker in a process of its own, killed at the end; its output is in `worker.log`."""
        settings = self.settings(**changed).model_dump(mode="json", exclude_none=True, exclude={"worker_name"})
        environment = {f"RVC_TRAIN_{name.upper()}": _text(value) for name, value in settings.items()}
        log = self.folder / "worker.log"
        worker = start_program("worker", environment=os.environ | environment, output=log, errors=log)
        try:
            yield worker
        finally:
            worker.kill()
            worker.wait(20)

    @staticmethod
    def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds * WAIT_FACTOR
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
            time.sleep(0.02)

    def job(self, job_id: str) -> Job:
        return self.jobs.get(job_id)

    def wait_for(self, job_id: str, *statuses: str, seconds: float = 20) -> Job:
        self.wait_until(lambda: self.job(job_id).status in statuses, f"{statuses}", seconds)
        return self.job(job_id)

    def event_types(self, job_id: str) -> list[str]:
        return [event.type for event in self.events(job_id)]

    def events(self, job_id: str) -> list[Event]:
        number = self.job(job_id).number
        with read_session(self.engine) as session:
            return list(session.exec(select(Event).where(Event.job_number == number).order_by(sa.column("seq"))).all())

    def artifacts(self, job_id: str) -> list[Artifact]:
        number = self.job(job_id).number
        with read_session(self.engine) as session:
            return list(session.exec(select(Artifact).where(Artifact.job_number == number)).all())

    def attempts(self, job_id: str) -> list[Attempt]:
        number = self.job(job_id).number
        with read_session(self.engine) as session:
            return list(session.exec(select(Attempt).where(Attempt.job_number == number)).all())

    def engine_pid(self, job_id: str) -> int:
        """Process of the first attempt's engine, once it is recorded, maybe after its first steps."""
        self.wait_until(lambda: self.attempts(job_id)[0].engine_pid is not None, "the record of the engine's process")
        return int(self.attempts(job_id)[0].engine_pid or 0)

    def log(self, job_id: str) -> str:
        path = self.storage.job_log(job_id)
        return path.read_text() if path.is_file() else ""

    def steps(self, job_id: str) -> list[int]:
        """Training steps the engines did, in order, repeats included."""
        path = self.storage.workspace(job_id) / "steps.txt"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []


def _text(value: object) -> str:
    """A setting as its environment variable holds it."""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture(scope="session")
def open_shop() -> Callable[..., AbstractContextManager[Shop]]:
    """`with open_shop(folder, url) as shop`: a shop on a folder, which may have one already."""

    @contextmanager
    def opened(folder: Path, url: str | None = None) -> Iterator[Shop]:
        made = Shop(folder, url)
        try:
            yield made
        finally:
            made.engine.dispose()

    return opened
