"""Clocks of servers and workers that differ, or are set: no job waits, ends or is lost because of it."""

from datetime import datetime, timedelta
from typing import Any, cast

import pytest
import sqlalchemy as sa

from rvc_engine.errors import FailureCode
from rvc_engine.events import Log, Progress
from rvc_train.schemas.jobs import JobCreate, JobStatus
from rvc_train.schemas.webhooks import WebhookCreate
from server.database.clock import database_clock, utc_now
from server.database.engine import create_engine, migrate, read_session, write_session
from server.database.tables import LOCAL_OWNER, Dataset, Worker
from server.job_store.liveness import WorkerLiveness
from server.jobs.queue_timeout import QueueTimeout
from server.jobs.reaper import Reaper
from server.jobs.serializers import workers_public
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.webhooks.delivery import Deliverer
from server.webhooks.service import WebhookService

SKEWS = [timedelta(hours=2), timedelta(hours=-2), timedelta(minutes=5), timedelta(minutes=-5)]


@pytest.fixture(params=SKEWS, ids=str)
def skew(request: pytest.FixtureRequest) -> timedelta:
    return request.param


@pytest.fixture
def of_worker(bench: Any, skew: timedelta) -> JobService:
    """The job service in a worker's process, on a machine with another time."""
    return JobService(bench.jobs.engine, lambda: bench.clock() + skew, retry_delay_seconds=0)


@pytest.fixture
def worker_id(of_worker: JobService) -> str:
    return of_worker.register_worker("worker", 1, "there", "cpu")


def test_a_job_is_claimed_at_once_whatever_the_workers_clock_shows(
    bench: Any, of_worker: JobService, worker_id: str
) -> None:
    job = bench.job()
    lease = of_worker.claim(worker_id)
    assert lease is not None, "submitted by the server's clock"
    of_worker.release(lease, "draining")
    lease = of_worker.claim(worker_id)
    assert lease is not None, "released by the worker's"
    bench.jobs.requeue_lost(bench.jobs.active_leases()[0])
    lease = of_worker.claim(worker_id)
    assert lease is not None, "found lost by the server"
    of_worker.release(lease, "draining")
    bench.jobs.pause(job.id)
    bench.jobs.resume(job.id)
    lease = of_worker.claim(worker_id)
    assert lease is not None, "resumed"


def test_a_whole_job_runs_between_two_clocks_with_nothing_lost(
    bench: Any, of_worker: JobService, worker_id: str, skew: timedelta
) -> None:
    seconds = [0.0]
    reaper = Reaper(bench.jobs, 60, lambda: seconds[0])
    timeout = QueueTimeout(bench.jobs, 600, lambda: seconds[0])
    timeout.sweep()
    job = bench.job()
    for _ in range(3):
        seconds[0] += 20
        bench.clock.advance(skew.total_seconds())  # the server's clock is set too, again and again
        assert (reaper.sweep(), timeout.sweep()) == (0, 0)
    lease = of_worker.claim(worker_id)
    for step in range(4):
        seconds[0] += 20
        bench.clock.advance(-skew.total_seconds())
        of_worker.heartbeat(lease)
        of_worker.record_events(lease, [Progress(stage="train", stage_progress=0, progress=0), Log(message=f"{step}")])
        assert (reaper.sweep(), timeout.sweep()) == (0, 0)
    of_worker.publish_artifact(lease, "voice", "anna.pth", "x", 1, "00")
    of_worker.succeed(lease)
    found = bench.jobs.get(job.id)
    assert (found.status, found.claims, found.recoveries, found.failures) == (JobStatus.SUCCEEDED, 1, 0, 0)


def test_the_queue_is_read_a_hundred_times_within_its_time_limit_and_no_job_is_late(bench: Any) -> None:
    now, readings = [0.0], [0]
    seconds_queued = bench.jobs.seconds_queued

    def counted() -> dict[Any, float]:
        readings[0] += 1
        return cast("dict[Any, float]", seconds_queued())

    bench.jobs.seconds_queued = counted
    timeout = QueueTimeout(bench.jobs, 86_400, lambda: now[0])
    job = bench.job()
    for _ in range(8_640):
        now[0] += 10
        assert timeout.sweep() == 0
    assert 90 <= readings[0] <= 101
    now[0] += 20
    assert timeout.sweep() == 1
    assert bench.jobs.get(job.id).error_code == "queue_timeout"


def test_a_message_about_a_workers_job_is_due_at_once(bench: Any, of_worker: JobService, worker_id: str) -> None:
    engine = bench.jobs.engine
    WebhookService(engine, bench.clock).create(LOCAL_OWNER, WebhookCreate(url="https://example.com/hook"))
    bench.job()
    lease = of_worker.claim(worker_id)
    of_worker.fail(lease, FailureCode.DIVERGED, "it diverged")
    due = Deliverer(engine, ServerSettings(), bench.clock)._due()
    assert [delivery.event for delivery, _ in due] == ["job.failed"]


# Which workers are listed as lost


def statuses(bench: Any, liveness: WorkerLiveness, now: datetime) -> list[str]:
    with read_session(bench.jobs.engine) as session:
        return [worker.status for worker in workers_public(session, now, liveness)]


def test_a_clock_that_is_set_lists_no_worker_as_lost(
    bench: Any, of_worker: JobService, worker_id: str, skew: timedelta
) -> None:
    seconds = [0.0]
    liveness = WorkerLiveness(60, lambda: seconds[0])
    assert statuses(bench, liveness, bench.clock()) == ["idle"]
    for _ in range(4):
        seconds[0] += 30
        bench.clock.advance(skew.total_seconds() / 4)
        of_worker.worker_heartbeat(worker_id)
        assert statuses(bench, liveness, bench.clock()) == ["idle"]
        bench.clock.advance(skew.total_seconds())  # set between two heartbeats
        assert statuses(bench, liveness, bench.clock()) == ["idle"]
        bench.clock.advance(-skew.total_seconds())


def test_a_worker_that_falls_silent_is_listed_as_lost_after_a_lease(bench: Any) -> None:
    seconds = [0.0]
    liveness = WorkerLiveness(60, lambda: seconds[0])
    bench.worker()
    assert statuses(bench, liveness, bench.clock()) == ["idle"]
    seconds[0] += 59
    assert statuses(bench, liveness, bench.clock()) == ["idle"]
    seconds[0] += 2
    assert statuses(bench, liveness, bench.clock()) == ["lost"]


def test_a_worker_that_was_silent_for_hours_before_the_server_started_is_lost_at_once(bench: Any) -> None:
    bench.worker()
    with write_session(bench.jobs.engine) as session:
        session.execute(sa.update(Worker).values(last_seen_at=bench.clock() - timedelta(hours=4)))
    assert statuses(bench, WorkerLiveness(60), bench.clock()) == ["lost"]


def test_a_worker_whose_clock_is_hours_behind_is_alive_from_its_next_heartbeat(bench: Any) -> None:
    late = JobService(bench.jobs.engine, lambda: bench.clock() - timedelta(hours=9))
    worker_id = late.register_worker("worker", 1, "there", "cpu")
    liveness = WorkerLiveness(60)
    assert statuses(bench, liveness, bench.clock()) == ["lost"]
    for _ in range(2):
        bench.clock.advance(10)
        late.worker_heartbeat(worker_id)
        assert statuses(bench, liveness, bench.clock()) == ["idle"]


def test_times_of_a_shared_database_are_those_of_its_clock_on_every_machine(postgres: Any, tmp_path: Any) -> None:
    """The database's clock is two hours ahead of this machine's."""
    url = postgres.new_database()
    engine = create_engine(url)
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() + interval '2 hours' $$"
        )
    engine.dispose()
    ahead = create_engine(f"{url}&options=-csearch_path%3Dpublic,pg_catalog")
    clock = database_clock(ahead)
    jobs = JobService(ahead, clock, retry_delay_seconds=0)
    assert timedelta(hours=1.9) < clock() - utc_now() < timedelta(hours=2.1)
    with write_session(ahead) as session:
        fields = {"name": "a", "sha256": "0", "size": 1, "num_files": 1, "created_at": clock()}
        session.add(Dataset(id="ds_1", status="ready", **fields))
    job = jobs.get(jobs.submit(JobCreate(name="anna", dataset_id="ds_1")).job_id)
    worker = jobs.register_worker("worker", 1, "there", "cpu")
    jobs.fail(jobs.claim(worker), FailureCode.ENGINE_CRASHED, "it crashed")
    assert jobs.claim(worker) is not None, "the retry is due by the same clock"
    assert timedelta(hours=1.9) < job.created_at - utc_now() < timedelta(hours=2.1)
    ahead.dispose()
