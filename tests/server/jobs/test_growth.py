"""With many jobs everything costs what it costs with few: counted in SQLite's instructions and read from the plans."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_train.schemas.jobs import JobStatus
from server.database.clock import utc_now
from server.database.engine import create_engine, migrate, read_session
from server.database.tables import Job
from server.estimates.estimates import Estimator
from server.job_store.counts import counts, fold_counts
from server.job_store.liveness import WorkerLiveness
from server.jobs.serializers import jobs_public, queue_public
from server.jobs.service import JobFilter, JobService
from server.metrics import Metrics
from server.storage.local import Storage
from server.storage.sizes import JobSizes

SERIES = {
    "sqlite": "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :n) SELECT i FROM s) AS s",
    "postgresql": "generate_series(1, :n) AS s(i)",
}
IDS = {"sqlite": "printf('%032x', :first + i)", "postgresql": "lpad(to_hex(CAST(:first AS int) + i), 32, '0')"}
INDEXED = re.compile(r"SEARCH |SCAN jobs USING (COVERING )?INDEX ix_jobs_queue")


def fill(engine: sa.Engine, template: Job, status: str, number: int) -> None:
    """Copies of a job, each with labels of its own."""
    values = {
        "id": f"'job_' || {IDS[engine.dialect.name]}",
        "worker_id": "NULL",
        "status": f"'{status}'",
        "labels": '\'{"team": "a"}\'',
        "priority": "i % 3",
        "finished_at": "NULL" if status == "queued" else "jobs.created_at",
    }
    columns = [column.name for column in Job.__table__.columns if column.name != "number"]
    selected = ", ".join(values.get(name, f"jobs.{name}") for name in columns)
    series = SERIES[engine.dialect.name]
    insert = f"INSERT INTO jobs ({', '.join(columns)}) SELECT {selected} FROM {series}, jobs WHERE jobs.number = :one"  # noqa: S608
    with engine.begin() as connection:
        first = connection.execute(sa.text("SELECT count(*) FROM jobs")).scalar_one()
        connection.execute(sa.text(insert), {"n": number, "one": template.number, "first": first})


def looks(engine: sa.Engine, jobs: JobService, storage: Storage, worker_id: str) -> dict[str, Callable[[], Any]]:
    """Frequent actions, by name."""
    estimator, liveness = Estimator(), WorkerLiveness(60)
    metrics, sizes = Metrics(engine, storage, liveness), JobSizes(engine, storage, utc_now)

    def shown(limit: int = 20, **filters: Any) -> None:
        found, _ = jobs.list(JobFilter(**filters), limit=limit)
        with read_session(engine) as session:
            jobs_public(session, found, estimator, utc_now())

    def queue() -> None:
        with read_session(engine) as session:
            queue_public(session, estimator, utc_now(), liveness, "local")

    return {
        "claim": lambda: jobs.claim(worker_id),
        "list": shown,
        "by status": lambda: shown(statuses=[JobStatus.QUEUED]),
        "by two statuses": lambda: shown(statuses=[JobStatus.RUNNING, JobStatus.SUCCEEDED]),
        "by status without jobs": lambda: shown(statuses=[JobStatus.PAUSED], owner="local"),
        "by label": lambda: shown(labels={"team": "a"}),
        "by label without jobs": lambda: shown(labels={"team": "b"}),
        "by name without jobs": lambda: shown(name="berta"),
        "by owner without jobs": lambda: shown(owner="berta"),
        "by dataset without jobs": lambda: shown(dataset_id="ds_none"),
        "by prefix": lambda: shown(id_prefix="0123456789ab"),
        "queue": queue,
        "metrics": metrics.text,
        "sizes": sizes.measure,
        "reaper": jobs.active_leases,
    }


@contextmanager
def instructions(engine: sa.Engine) -> Iterator[list[int]]:
    """Number of instructions that SQLite executes in the block, in tens."""
    number = [0]

    def count() -> int:
        number[0] += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.set_progress_handler(count, 10)

    sa.event.listen(engine, "checkout", watch)
    try:
        yield number
    finally:
        sa.event.remove(engine, "checkout", watch)


@pytest.mark.sqlite
def test_a_claim_a_list_the_queue_and_the_metrics_cost_the_same_with_few_jobs_and_with_many(
    bench: Any, engine: sa.Engine, storage: Storage
) -> None:
    template, worker_id = bench.job(), bench.worker()
    todo = looks(engine, bench.jobs, storage, worker_id)
    costs: list[dict[str, int]] = []
    for number in (700, 6000):
        for status in ("queued", "succeeded"):
            fill(engine, template, status, number)
        fold_counts(engine)
        costs.append({})
        for name, look in todo.items():
            look()  # what lasts for a while is read now: the snapshot of the queue, measured jobs
            with instructions(engine) as counted:
                look()
            costs[-1][name] = counted[0]
    few, many = costs
    assert {name: (few[name], many[name]) for name in few if many[name] > 1.5 * few[name] + 20} == {}


def plans(engine: sa.Engine, todo: dict[str, Callable[[], Any]]) -> Iterator[tuple[str, str, str]]:
    """Each action with its statements on jobs and their plans."""
    is_sqlite = engine.dialect.name == "sqlite"
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if re.search(r"\b(FROM|UPDATE|JOIN) jobs\b", statement):
            seen.append((statement, parameters))

    for name, act in todo.items():
        seen.clear()
        sa.event.listen(engine, "before_cursor_execute", note)
        act()
        sa.event.remove(engine, "before_cursor_execute", note)
        assert seen or name == "sizes", name
        for statement, parameters in list(seen):
            with engine.connect() as connection, connection.begin() as transaction:
                if not is_sqlite:
                    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).all()
                transaction.rollback()
            yield name, statement, "\n".join(str(row[-1]) for row in rows)


@pytest.mark.sqlite
def test_no_statement_of_a_claim_a_list_or_the_metrics_reads_all_jobs_of_sqlite(
    bench: Any, engine: sa.Engine, storage: Storage
) -> None:
    fill(engine, bench.job(), "queued", 50)
    for name, statement, plan in plans(engine, looks(engine, bench.jobs, storage, bench.worker())):
        scans = [line for line in plan.splitlines() if "jobs" in line and not INDEXED.search(line)]
        is_newest_first = name in {"list", "by prefix"} and "LIMIT" in statement
        assert not scans or (is_newest_first and scans == ["SCAN jobs"]), (name, statement, plan)
        if name == "claim" and "not_before" in statement and "UPDATE" in statement:
            assert "ix_jobs_queue" in plan
            assert "TEMP B-TREE" not in plan


def test_no_statement_of_a_claim_a_list_or_the_metrics_reads_all_jobs_of_postgresql(
    postgres: Any, bench: Any, tmp_path: Path, storage: Storage
) -> None:
    engine = create_engine(postgres.new_database())
    migrate(engine)
    bench.jobs = JobService(engine)
    fill(engine, bench.job(), "queued", 500)
    fill(engine, bench.jobs.list()[0][0], "succeeded", 500)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    for name, statement, plan in plans(engine, looks(engine, bench.jobs, storage, bench.worker())):
        assert "Seq Scan on jobs" not in plan, (name, statement, plan)
        if name == "claim" and "not_before" in statement and "UPDATE" in statement:
            assert "number >= " in plan, "it begins with the first job of the group"
            assert "Sort" not in plan
    with read_session(engine) as session:
        kept = counts(session)["jobs"]
    assert {label: number for label, number in kept.items() if number} == {
        "queued": 500,
        "succeeded": 500,
        "running": 1,
    }
    engine.dispose()


def test_places_are_exact_in_front_and_of_a_short_while_ago_behind(bench: Any, engine: sa.Engine) -> None:
    first = bench.job(priority=100)
    fill(engine, first, "queued", 1200)
    newest, _ = bench.jobs.list(limit=3)
    estimator = Estimator()

    def places(*jobs: Job) -> list[int | None]:
        with read_session(engine) as session:
            return [each.queue_position for each in jobs_public(session, jobs, estimator, utc_now())]

    with engine.connect() as connection:
        order = connection.execute(sa.text("SELECT id FROM jobs ORDER BY priority DESC, number")).scalars().all()
    assert places(first, *newest) == [order.index(job.id) + 1 for job in (first, *newest)]
    urgent = bench.job(priority=50)
    assert places(urgent, first) == [2, 1]
    seen = [order.index(job.id) + 1 for job in newest]
    assert all(place in {before, before + 1} for place, before in zip(places(*newest), seen, strict=True))


def test_the_counts_are_those_of_the_rows_after_changes_and_deletions(bench: Any, engine: sa.Engine) -> None:
    def counted() -> dict[str, dict[str, int]]:
        with read_session(engine) as session:
            kept = {name: {label: n for label, n in of.items() if n} for name, of in counts(session).items()}
        return {name: of for name, of in kept.items() if of}

    bench.job()
    lease = bench.claim()
    waiting = bench.job()
    assert counted() == {"jobs": {"running": 1, "queued": 1}}
    bench.publish(lease)
    bench.jobs.succeed(lease)
    bench.jobs.force_fail(waiting.id, "a test")
    expected = {"jobs": {"succeeded": 1, "failed": 1}, "attempts": {"succeeded": 1}, "job_failures": {"internal": 1}}
    assert counted() == expected
    fold_counts(engine)
    assert counted() == expected
    bench.jobs.delete(lease.job_id)
    bench.jobs.delete(waiting.id)
    assert counted() == {}


def test_labels_that_change_are_found_and_those_that_are_gone_are_not(bench: Any) -> None:
    from rvc_train.schemas.jobs import JobPatch

    job = bench.job(labels={"a": "1", "b": "2"})
    other = bench.job(labels={"a": "1"})

    def found(**labels: str) -> list[str]:
        return [each.id for each in bench.jobs.list(JobFilter(labels=labels))[0]]

    assert found(a="1") == [other.id, job.id]
    assert found(a="1", b="2") == [job.id]
    bench.jobs.update(job.id, JobPatch(labels={"a": "3", "b": None}))
    assert (found(a="1"), found(a="3"), found(b="2")) == ([other.id], [job.id], [])


def test_files_are_measured_of_running_jobs_each_time_and_of_others_once_after_they_ran(
    bench: Any, engine: sa.Engine, storage: Storage
) -> None:
    sizes = JobSizes(engine, storage, bench.clock)
    for _ in range(3):
        bench.job()
    assert sizes.measure() == 0, "a waiting job has no files"
    lease = bench.claim()
    assert (sizes.measure(), sizes.measure()) == (1, 1)
    bench.jobs.release(lease, "draining")
    assert (sizes.measure(), sizes.measure()) == (1, 0)
    lease = bench.claim()
    bench.jobs.cancel(lease.job_id)
    bench.jobs.release(lease, "asked to")
    assert (sizes.measure(), sizes.measure()) == (1, 0)
