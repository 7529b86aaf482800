"""The service under load: responses with a full database, many followers, large files, cost of a worker. JSON lines.

Server and worker are separate processes, started as users do; this one sends requests, and writes to the database as a
worker does.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa

from rvc_engine.config import TrainingConfig
from rvc_engine.events import Metric as MetricEvent
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate, JobStatus
from server.database.engine import create_engine, write_session
from server.database.result_tables import Artifact
from server.database.tables import Attempt, Dataset, Event, Job, Metric, Worker, new_id
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.storage.instances import open_instance
from server.storage.local import Storage

MIB = 2**20
EVENTS_OF_A_JOB = 60
STEPS_OF_A_JOB = 100
TOKEN = "the-token-of-the-benchmark"  # noqa: S105 - of a server that lives for the measurement
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
NO_OUTPUT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def print_line(name: str, value: float, unit: str, notes: str, **more: float) -> None:
    """Print one JSON line."""
    print(
        json.dumps({"name": f"service {name}", "value": round(value, 4), "unit": unit, **more, "notes": notes}),
        flush=True,
    )


@dataclass(frozen=True)
class Instance:
    """A data folder with a database."""

    folder: Path
    jobs: JobService
    storage: Storage
    dataset_id: str

    @classmethod
    def make(cls, folder: Path) -> "Instance":
        """A new instance with one dataset that is ready, and that is never read."""
        engine = create_engine(f"sqlite:///{folder / 'rvc-train.db'}")
        storage = Storage(folder)
        open_instance(engine, storage)
        now = datetime.now(UTC)
        fields = {"name": "anna", "sha256": "0" * 64, "size": 1, "num_files": 1, "created_at": now, "validated_at": now}
        dataset = Dataset(id=new_id("ds"), status=DatasetStatus.READY, **fields)
        with write_session(engine) as session:
            session.add(dataset)
        storage.dataset_folder(dataset.id).mkdir(parents=True)
        return cls(folder, JobService(engine, storage=storage), storage, dataset.id)

    def submit(self) -> Job:
        """A job that waits."""
        return self.jobs.get(self.jobs.submit(JobCreate(name="anna", dataset_id=self.dataset_id)).job_id)

    def claim(self) -> Lease:
        """Claim the next job for this process."""
        lease = self.jobs.claim(self.jobs.register_worker("bench", os.getpid(), socket.gethostname(), "cpu"))
        assert lease is not None
        return lease

    def fill(self, num_jobs: int) -> list[str]:
        """Write finished jobs, with events, metrics, an attempt and two artifacts each; returns their ids."""
        config = TrainingConfig().model_dump(mode="json")
        start = datetime.now(UTC) - timedelta(days=300)
        worker = Worker(
            id=new_id("wrk"), name="old", pid=1, host="old", device="cpu", registered_at=start, last_seen_at=start
        )
        with write_session(self.jobs.engine) as session:
            session.add(worker)
        ids = []
        for first in range(0, num_jobs, 500):
            numbers = range(first + 1, min(first + 500, num_jobs) + 1)
            ids += self._fill(numbers, config, start, worker.id)
        with self.jobs.engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
        return ids

    def _fill(self, numbers: range, config: dict[str, Any], start: datetime, worker_id: str) -> list[str]:
        rows: dict[Any, list[dict[str, Any]]] = {table: [] for table in (Job, Event, Metric, Attempt, Artifact)}
        for number in numbers:
            job = self._finished_job(number, config, start + timedelta(minutes=number))
            rows[Job].append(job.model_dump())
            for table, more in _rows_of(job, worker_id).items():
                rows[table] += more
        with write_session(self.jobs.engine) as session:
            for table, values in rows.items():
                session.connection().execute(sa.insert(table), values)
        return [job["id"] for job in rows[Job]]

    def _finished_job(self, number: int, config: dict[str, Any], at: datetime) -> Job:
        return Job(
            number=number,
            id=new_id("job"),
            name=f"voice {number}",
            dataset_id=self.dataset_id,
            status=JobStatus.CANCELLED if number % 4 == 3 else JobStatus.SUCCEEDED,
            config=config,
            labels={"team": str(number % 20)},
            not_before=at,
            claims=1,
            token=1,
            progress=1.0,
            last_seq=EVENTS_OF_A_JOB,
            created_at=at,
            queued_at=at,
            started_at=at,
            finished_at=at,
        )


def _rows_of(job: Job, worker_id: str) -> dict[Any, list[dict[str, Any]]]:
    """Events, metrics, the attempt and two artifacts of a finished job, by table."""
    number, at = job.number, job.created_at
    data = {"stage": "train", "progress": 0.5, "eta_seconds": 100.0, "step": 10, "step_seconds": 0.5}
    event = {"type": "progress", "level": "info", "message": "train 50%", "data": data, "attempt": 1}
    attempt = {"attempt": 1, "token": 1, "worker_id": worker_id, "started_at": at, "ended_at": at}
    file = {"path": "none", "size": 1, "sha256": "0" * 64}
    common = {"job_number": number, "created_at": at}
    return {
        Event: [{**common, **event, "seq": seq} for seq in range(1, EVENTS_OF_A_JOB + 1)],
        Metric: [
            {"job_number": number, "key": key, "step": step, "value": 1.0}
            for key in ("loss/mel", "loss/kl")
            for step in range(1, STEPS_OF_A_JOB + 1)
        ],
        Attempt: [{"job_number": number, **attempt, "outcome": "succeeded"}],
        Artifact: [{**common, **file, "id": new_id("art"), "kind": kind, "name": kind} for kind in ("voice", "index")],
    }


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    url: str
    process: psutil.Process

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the server."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the server."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[ServerProcess]:
    """Run `python -m server` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # No limits on followers and large files; no report, which would read two gigabytes of random bytes.
    settings = {"DATA_FOLDER": str(folder), "PORT": str(port), "REPORT_COMMAND": '["true"]', "LOG_LEVEL": "warning"}
    settings |= {"TOKEN": TOKEN, "REQUESTS_PER_MINUTE": "1e9", "WRITES_PER_MINUTE": "1e9", "MAX_STREAMS": "1000000"}
    env = os.environ | {f"RVC_TRAIN_{name}": value for name, value in (settings | environment).items()}
    child = subprocess.Popen([sys.executable, "-m", "server"], env=env, **NO_OUTPUT)  # type: ignore[call-overload]
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert child.poll() is None, "the server does not start"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            time.sleep(0.1)
        yield ServerProcess(url, psutil.Process(child.pid))
    finally:
        child.terminate()
        child.wait()


def percentiles(times: list[float]) -> dict[str, float]:
    """p50 and p99 of a list of seconds, in milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49] * 1000, 2), "p99": round(cuts[98] * 1000, 2)}


def measure_answers(instance: Instance, num_jobs: int, rounds: int) -> None:
    """Print times of submit, lists and reads, one after another, with `num_jobs` finished jobs in the database."""
    ids = instance.fill(num_jobs)
    body = {"name": "anna", "dataset_id": instance.dataset_id}
    middle = ids[len(ids) // 2]
    reads: dict[str, str] = {
        "list, first page": "/v1/jobs",
        "list, 100 from the middle": f"/v1/jobs?limit=100&after={middle}",
        "list by status": "/v1/jobs?status=failed",
        "list by dataset": f"/v1/jobs?dataset={instance.dataset_id}",
        "list by label": "/v1/jobs?label.team=7",
        "list by a label without jobs": "/v1/jobs?label.team=none",
        "one job": f"/v1/jobs/{middle}",
        "events, a page": f"/v1/jobs/{middle}/events?limit=100",
        "metrics": f"/v1/jobs/{middle}/metrics",
        "queue": "/v1/queue",
        "who am I (quota and use)": "/v1/me",
        "metrics for Prometheus": "/metrics",
    }
    with (
        serving(instance.folder) as server,
        httpx.Client(base_url=server.url, timeout=60, headers=AUTHORIZED) as client,
    ):
        notes = f"{num_jobs} finished jobs in the database, one caller"
        timed(lambda: client.post("/v1/jobs", json=body).raise_for_status(), rounds, "submit", notes)
        for name, path in reads.items():
            timed(lambda path=path: client.get(path).raise_for_status(), rounds, name, notes)
        print_line("memory", server.peak_bytes / MIB, "MiB", f"the server's peak over all of these; {notes}")


def timed(work: Callable[[], object], rounds: int, name: str, notes: str) -> None:
    """Print p50 and p99 of the times of a call."""
    for _ in range(5):
        work()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    found = percentiles(times)
    print_line(name, found["p50"], "ms", f"p50 of {rounds}; {notes}", **found)


def measure_followers(instance: Instance, num_followers: int, seconds: float) -> None:
    """Print the delay of events to many followers of one job, whose worker writes twice a second."""
    job = instance.submit()
    lease = instance.claim()
    with serving(instance.folder, FOLLOW_POLL_SECONDS="0.4") as server:
        cpu = server.cpu_seconds
        delays = asyncio.run(_follow(server.url, job.id, instance, lease, num_followers, seconds))
        used = (server.cpu_seconds - cpu) / seconds
        found = percentiles(delays)
        notes = f"p50 over {len(delays)} messages to {num_followers} followers of one job; {used:.2f} of a core"
        print_line("event to follower", found["p50"], "ms", notes, **found)
        print_line(
            "memory with followers", server.peak_bytes / MIB, "MiB", f"the server's peak with {num_followers} followers"
        )
    instance.jobs.release(lease, "measured")


async def _follow(
    url: str, job_id: str, instance: Instance, lease: Lease, num_followers: int, seconds: float
) -> list[float]:
    delays: list[float] = []
    written: dict[int, float] = {}
    ready = asyncio.Semaphore(0)

    async def follow(client: httpx.AsyncClient) -> None:
        headers = {"Accept": "text/event-stream"}
        async with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
            ready.release()
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and (step := json.loads(line[6:]).get("data", {}).get("step")) in written:
                    delays.append(time.monotonic() - written[step])

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits, headers=AUTHORIZED) as client:  # noqa: S113 - streams
        followers = [asyncio.create_task(follow(client)) for _ in range(num_followers)]
        for _ in followers:
            await ready.acquire()
        for step in range(1, int(seconds * 2) + 1):
            event = MetricEvent(step=step, epoch=1, values={"loss/mel": 1.0})
            written[step] = time.monotonic()
            await asyncio.to_thread(instance.jobs.record_events, lease, [event])
            await asyncio.sleep(0.5)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    return delays


def measure_large_files(instance: Instance, size: int) -> None:
    """Print the throughput of one upload, by raw PUT, and of one download."""
    piece = os.urandom(MIB)

    def body() -> Iterator[bytes]:
        yield b"RIFF"
        for _ in range(size // MIB):
            yield piece

    limits = {"MAX_UPLOAD_BYTES": str(size + MIB), "MAX_FILE_BYTES": str(size + MIB)}
    with (
        serving(instance.folder, **limits) as server,
        httpx.Client(base_url=server.url, timeout=600, headers=AUTHORIZED) as client,
    ):
        begin = time.perf_counter()
        answer = client.put("/v1/datasets/large/content", content=body()).raise_for_status()
        seconds = time.perf_counter() - begin
        assert answer.json()["size"] == size + 4
        print_line("upload", size / MIB / seconds, "MiB/s", f"{size / 2**30:g} GiB in one PUT, hashed and fsynced")

        job_id, digest = _large_artifact(instance, instance.storage.dataset_folder(answer.json()["id"]) / "000001.wav")
        begin, got = time.perf_counter(), hashlib.sha256()
        with client.stream("GET", f"/v1/jobs/{job_id}/artifacts/anna.pth") as found:
            for chunk in found.iter_bytes():
                got.update(chunk)
        seconds = time.perf_counter() - begin
        assert got.hexdigest() == digest
        print_line("download", size / MIB / seconds, "MiB/s", f"{size / 2**30:g} GiB in one GET, hashed by the client")
        print_line(
            "memory with large files", server.peak_bytes / MIB, "MiB", "the server's peak; it should stay under 200"
        )


def _large_artifact(instance: Instance, source: Path) -> tuple[str, str]:
    job, lease = instance.submit(), instance.claim()
    while lease.job_id != job.id:  # skips jobs of earlier measurements
        lease = instance.claim()
    stored = instance.storage.store_artifact(job.id, lease.token, source)
    instance.jobs.publish_artifact(lease, "voice", "anna.pth", stored.path, stored.size, stored.sha256)
    instance.jobs.succeed(lease)
    return job.id, stored.sha256


def measure_worker(instance: Instance, seconds: float, locked_seconds: float) -> None:
    """Print the CPU time of a worker, and the engine's longest write, also while the database is locked."""
    command = json.dumps([sys.executable, "-m", "benchmarks.steady_engine"])
    env = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(instance.folder), "RVC_TRAIN_ENGINE_COMMAND": command}
    job = instance.submit()
    writes = instance.storage.workspace(job.id) / "writes.json"
    child = subprocess.Popen([sys.executable, "-m", "worker"], env=env, **NO_OUTPUT)  # type: ignore[call-overload]
    try:
        while not writes.is_file():
            assert child.poll() is None, "the worker does not start"
            time.sleep(0.1)
        time.sleep(2)
        worker = psutil.Process(child.pid)
        before, begin, began = worker.cpu_times(), time.monotonic(), time.time()
        time.sleep(seconds)
        after, wall = worker.cpu_times(), time.monotonic() - begin
        used = (after.user + after.system) - (before.user + before.system)
        notes = f"of one core, over {wall:.0f} s of an engine that writes twice a second; it should stay under 1"
        print_line("worker's share of CPU", 100 * used / wall, "%", notes)
        _print_writes(writes, began, "database not locked")
        began = time.time()
        with instance.jobs.engine.connect() as connection, connection.begin():  # an open write transaction
            time.sleep(locked_seconds)
        time.sleep(1)
        _print_writes(writes, began, f"database locked for {locked_seconds:.0f} s")
    finally:
        child.terminate()
        child.wait()


def _print_writes(writes: Path, since: float, notes: str) -> None:
    took = [seconds for at, seconds in json.loads(writes.read_text()) if at >= since]
    print_line(
        "engine's longest write to its pipe",
        max(took) * 1000,
        "ms",
        f"of {len(took)}; a pipe that is not read would block it that long; {notes}",
        over_50_ms=sum(seconds > 0.05 for seconds in took),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="finished jobs in the database")
    parser.add_argument("--rounds", type=int, default=200, help="repetitions of each request")
    parser.add_argument("--followers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30, help="duration of measuring followers and the worker")
    parser.add_argument("--locked-seconds", type=float, default=45)
    parser.add_argument("--gib", type=float, default=2, help="size of the large file")
    parser.add_argument("--only", choices=["answers", "followers", "files", "worker"])
    options = parser.parse_args()
    measures: dict[str, Callable[[Instance], None]] = {
        "answers": lambda instance: measure_answers(instance, options.jobs, options.rounds),
        "followers": lambda instance: measure_followers(instance, options.followers, options.seconds),
        "files": lambda instance: measure_large_files(instance, int(options.gib * 1024) * MIB),
        "worker": lambda instance: measure_worker(instance, options.seconds, options.locked_seconds),
    }
    for name, measure in measures.items():
        if options.only in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                measure(Instance.make(Path(folder)))


if __name__ == "__main__":
    main()
