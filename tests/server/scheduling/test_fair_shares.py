"""The owner with the least running and recent GPU time goes first, on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_train.schemas.jobs import JobCreate
from server.database.engine import create_engine, migrate
from server.database.tables import Job, new_id
from server.jobs.service import JobService


@pytest.fixture(scope="module")
def on_postgresql(postgres: Any) -> Iterator[sa.Engine]:
    engine = create_engine(postgres.new_database())
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, bench: Any) -> Any:
    """A bench on either database."""
    if request.param == "postgresql":
        engine = request.getfixturevalue("on_postgresql")
        with engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE jobs, workers, datasets, owner_shares CASCADE"))
        bench.jobs = JobService(engine, bench.clock, retry_delay_seconds=10)
    return bench


def submit(bench: Any, owner: str, number: int = 1, dataset: str | None = None, **fields: Any) -> list[str]:
    dataset = dataset or bench.dataset()
    request = JobCreate(name="anna", dataset_id=dataset, **fields)
    return [bench.jobs.submit(request, owner=owner).job_id for _ in range(number)]


def copy_job(bench: Any, job_id: str, times: int) -> None:
    """More jobs like this one, without the time that submissions take."""
    columns = ", ".join(column.name for column in Job.__table__.columns if column.name not in {"number", "id"})
    copy = f"INSERT INTO jobs (id, {columns}) SELECT :new, {columns} FROM jobs WHERE id = :job"  # noqa: S608 - names of columns
    with bench.jobs.engine.begin() as connection:
        connection.execute(sa.text(copy), [{"new": new_id("job"), "job": job_id} for _ in range(times)])


def owners(bench: Any, *workers: str) -> list[str]:
    return [bench.jobs.get(bench.jobs.claim(worker).job_id).owner for worker in workers]


def end(bench: Any, lease: Any) -> None:
    bench.publish(lease)
    bench.jobs.succeed(lease)


def test_an_owner_with_500_jobs_delays_the_first_of_another_by_at_most_one_job_per_worker(shared: Any) -> None:
    (job,) = submit(shared, "many")
    copy_job(shared, job, 499)
    workers = [shared.worker() for _ in range(3)]
    running = [shared.jobs.claim(worker) for worker in workers]
    (late,) = submit(shared, "late")
    shared.clock.advance(600)
    end(shared, running[0])
    assert shared.jobs.claim(workers[0]).job_id == late
    assert owners(shared, shared.worker()) == ["many"], "nobody else waits"


def test_claims_at_the_same_moment_are_spread_over_the_owners(shared: Any) -> None:
    for owner in ("a", "b", "c"):
        submit(shared, owner, 4)
    assert Counter(owners(shared, *(shared.worker() for _ in range(6)))) == {"a": 2, "b": 2, "c": 2}


def test_priority_goes_before_shares_and_gpu_time_is_forgotten_by_half_each_day(shared: Any) -> None:
    submit(shared, "a", 4)
    worker = shared.worker()
    lease = shared.jobs.claim(worker)
    shared.clock.advance(3600)
    end(shared, lease)
    submit(shared, "b", 2)
    submit(shared, "a", priority=1)
    lease = shared.jobs.claim(worker)
    assert shared.jobs.get(lease.job_id).priority == 1
    end(shared, lease)
    lease = shared.jobs.claim(worker)
    assert shared.jobs.get(lease.job_id).owner == "b"
    shared.clock.advance(3000)
    end(shared, lease)
    # An hour of a, 50 minutes of b: two days later a quarter of each is left, in the same order.
    shared.clock.advance(timedelta(days=2).total_seconds())
    lease = shared.jobs.claim(worker)
    assert shared.jobs.get(lease.job_id).owner == "b"
    shared.clock.advance(300)  # a has 15 minutes, b 12 and a half, and now 5 more
    end(shared, lease)
    assert owners(shared, worker) == ["a"]


def test_a_worker_on_several_gpus_counts_for_each_of_them(shared: Any) -> None:
    two = shared.jobs.register_worker("two", 1, "here", "cuda:0+cuda:1", num_gpus=2)
    one = shared.jobs.register_worker("one", 1, "here", "cuda:2", num_gpus=1)
    submit(shared, "a", 2)
    submit(shared, "b", 2)
    assert owners(shared, two, one) == ["a", "b"]
    shared.clock.advance(600)
    assert owners(shared, one) == ["b"]


def test_a_job_that_is_not_due_holds_nobody_up(shared: Any) -> None:
    worker = shared.worker()
    (first,) = submit(shared, "a", priority=1)
    shared.jobs.hand_back(shared.jobs.claim(worker), "internal", "unexpected")
    submit(shared, "a")
    submit(shared, "b", priority=-1)
    assert [shared.jobs.get(shared.jobs.claim(worker).job_id).priority for _ in range(2)] == [0, -1]
    assert shared.jobs.claim(worker) is None
    shared.clock.advance(700)
    assert shared.jobs.claim(worker).job_id == first


def test_workers_that_claim_at_once_take_each_job_once(shared: Any) -> None:
    for owner in ("a", "b", "c"):
        submit(shared, owner, 4)
    taken: list[str] = []

    def work() -> None:
        worker = shared.worker()
        while (lease := shared.jobs.claim(worker)) is not None:
            taken.append(lease.job_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 12


def test_the_time_of_a_deleted_job_still_counts(shared: Any) -> None:
    submit(shared, "a", 2)
    worker = shared.worker()
    lease = shared.jobs.claim(worker)
    shared.clock.advance(100)
    end(shared, lease)
    shared.jobs.delete(lease.job_id)
    submit(shared, "b")
    assert owners(shared, worker) == ["b"]
    with shared.jobs.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT gpu_seconds FROM owner_shares WHERE owner = 'a'")) == 100
