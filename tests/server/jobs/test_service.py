"""The job service's promises: exactly once, in order, and no write under an old token."""

import math
import threading
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa

from rvc_engine.errors import FailureCode
from rvc_engine.events import CheckpointSaved, Log, Progress, StageChanged, Warned
from rvc_engine.events import Metric as Measured
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate, JobStatus
from rvc_train.schemas.workers import WorkerCommand
from server.database.engine import read_session, write_session
from server.database.result_tables import Artifact
from server.database.tables import LOCAL_OWNER, Attempt, Delivery, Event, IdempotencyKey, Job, Metric, Webhook
from server.errors import Conflict, LeaseLost, NotFound, NothingPublished, Refused
from server.job_store.idempotency import IdempotentRequest
from server.job_store.leases import EngineProcess
from server.job_store.queries import JobQueries
from server.jobs.reaper import Reaper
from server.jobs.service import JobFilter, JobService, next_jobs, numbers_by_status
from server.jobs.submission import request_fingerprint
from server.settings import ServerSettings
from worker.settings import WorkerSettings


def types_of(job_service, job_id):
    return [event.type for event in JobQueries(job_service.engine).events(job_id, 0, 1000).events]


def test_each_of_many_jobs_is_claimed_exactly_once_by_threads_that_compete(bench):
    ids = {bench.job().id for _ in range(24)}
    claimed: list[str] = []

    def work():
        worker = bench.worker()
        while (lease := bench.jobs.claim(worker)) is not None:
            claimed.append(lease.job_id)
            bench.publish(lease)
            bench.jobs.succeed(lease)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(claimed) == dict.fromkeys(ids, 1)


def test_jobs_run_by_priority_and_then_in_the_order_of_submission(bench):
    first, second = bench.job(), bench.job()
    urgent = bench.job(priority=5)
    assert [bench.claim().job_id for _ in range(3)] == [urgent.id, first.id, second.id]


def test_nothing_is_claimed_from_an_empty_queue(bench):
    assert bench.jobs.claim(bench.worker()) is None


def test_a_claim_carries_all_that_a_worker_needs(bench):
    job = bench.job(name="Müller's «voice»", config={"batch_size": 7}, max_duration_seconds=60.0)
    lease = bench.claim()
    assert (lease.job_id, lease.voice, lease.dataset_id) == (job.id, "Müller's «voice»", job.dataset_id)
    assert (lease.token, lease.attempt, lease.max_duration_seconds) == (1, 1, 60.0)
    assert lease.config.batch_size == 7


def test_a_stopped_worker_claims_nothing(bench):
    bench.job()
    worker = bench.worker()
    bench.jobs.deregister_worker(worker)
    assert bench.jobs.claim(worker) is None


def test_a_config_that_this_version_cannot_read_fails_its_job_and_not_the_queue(bench):
    broken, good = bench.job(), bench.job()
    with bench.jobs.engine.begin() as connection:
        connection.execute(sa.update(Job).where(Job.id == broken.id).values(config={"no_such_option": 1}))
    assert bench.claim().job_id == good.id
    assert bench.jobs.get(broken.id).error_code == FailureCode.INVALID_CONFIG


@pytest.mark.parametrize(
    "write",
    [
        lambda job_service, lease: job_service.heartbeat(lease),
        lambda job_service, lease: job_service.record_events(lease, [Log(message="x")]),
        lambda job_service, lease: job_service.record_engine_process(lease, 1, 1.0),
        lambda job_service, lease: job_service.publish_artifact(lease, "voice", "anna.pth", "x", 1, "x"),
        lambda job_service, lease: job_service.succeed(lease),
        lambda job_service, lease: job_service.fail(lease, FailureCode.INTERNAL, "x"),
        lambda job_service, lease: job_service.release(lease, "x"),
    ],
)
def test_every_write_under_a_replaced_token_is_turned_away_and_changes_nothing(bench, write):
    job = bench.job()
    stale = bench.claim()
    bench.jobs.release(stale, "drained")
    bench.claim()
    before = bench.jobs.get(job.id).model_dump()
    with pytest.raises(LeaseLost):
        write(bench.jobs, stale)
    assert bench.jobs.get(job.id).model_dump() == before
    with bench.jobs.engine.connect() as connection:
        query = "SELECT attempt, stale_writes FROM attempts ORDER BY attempt"
        assert connection.execute(sa.text(query)).all() == [(1, 1), (2, 0)], "turned away, and counted"


def test_a_finished_job_refuses_changes_even_past_the_service(bench):
    job = bench.job()
    bench.jobs.cancel(job.id)
    with pytest.raises(sa.exc.DBAPIError, match="a finished job does not change"), bench.jobs.engine.begin() as c:
        c.execute(sa.text("UPDATE jobs SET status = 'queued', finished_at = NULL"))


def test_a_running_job_without_a_worker_cannot_be_written(bench):
    bench.job()
    with pytest.raises(sa.exc.IntegrityError, match="held_exactly"), bench.jobs.engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET status = 'running', token = 1"))


def test_success_needs_a_published_voice(bench):
    job = bench.job()
    lease = bench.claim()
    with pytest.raises(NothingPublished):
        bench.jobs.succeed(lease)
    assert bench.jobs.get(job.id).status == JobStatus.RUNNING


def test_a_success_wins_over_a_cancel_that_came_before(bench):
    job = bench.job()
    lease = bench.claim()
    bench.publish(lease)
    bench.jobs.cancel(job.id)
    assert bench.jobs.heartbeat(lease) is WorkerCommand.CANCEL
    bench.jobs.succeed(lease)
    assert bench.jobs.get(job.id).status == JobStatus.SUCCEEDED


def test_a_heartbeat_returns_a_requested_pause(bench):
    job = bench.job()
    lease = bench.claim()
    assert bench.jobs.heartbeat(lease) is WorkerCommand.NONE
    bench.jobs.pause(job.id)
    assert bench.jobs.heartbeat(lease) is WorkerCommand.PAUSE


def test_a_retry_waits_longer_each_time_and_gives_up_after_max_attempts(bench):
    job = bench.job(max_attempts=3)
    for delay in (10, 20):
        bench.jobs.fail(bench.claim(), FailureCode.ENGINE_CRASHED, "it crashed")
        bench.clock.advance(delay - 1)
        assert bench.jobs.claim(bench.worker()) is None
        bench.clock.advance(1)
    assert bench.jobs.fail(bench.claim(), FailureCode.ENGINE_CRASHED, "it crashed") == JobStatus.FAILED
    row = bench.jobs.get(job.id)
    assert (row.error_code, row.error_message, row.failures) == ("engine_crashed", "it crashed", 3)


def test_a_drained_attempt_counts_no_failure_and_is_taken_up_at_once(bench):
    job = bench.job()
    bench.jobs.release(bench.claim(), "the worker stops")
    assert bench.claim().attempt == 2
    assert bench.jobs.get(job.id).failures == 0


def test_a_job_that_its_worker_could_not_run_is_tried_again_and_fails_after_too_many_recoveries(bench):
    job = bench.job()
    for number in (1, 2, 3):
        bench.clock.advance(600)
        lease = bench.claim()
        bench.jobs.hand_back(lease, FailureCode.INTERNAL, f"unexpected worker error {number}")
        with pytest.raises(LeaseLost):
            bench.jobs.hand_back(lease, FailureCode.INTERNAL, "a second time")
    row = bench.jobs.get(job.id)
    assert (row.status, row.error_code, row.error_message) == ("failed", "internal", "unexpected worker error 3")
    assert (row.failures, row.recoveries) == (0, 3)
    assert types_of(bench.jobs, job.id).count("retrying") == 2


def test_the_jobs_of_a_worker_whose_process_ended_go_back_and_a_requested_stop_is_completed(bench):
    jobs = [bench.job() for _ in range(4)]
    dead, other = bench.worker(), bench.worker()
    leases = [bench.jobs.claim(dead) for _ in range(3)]
    alive = bench.jobs.claim(other)
    bench.jobs.cancel(jobs[1].id)
    bench.jobs.pause(jobs[2].id)
    assert sorted(bench.jobs.requeue_worker(dead)) == sorted(job.id for job in jobs[:3])
    assert bench.jobs.requeue_worker(dead) == []
    assert [bench.jobs.get(job.id).status for job in jobs] == ["queued", "cancelled", "paused", "running"]
    assert [bench.jobs.get(job.id).recoveries for job in jobs] == [1, 1, 1, 0]
    bench.jobs.heartbeat(alive)
    for lease in leases:
        with pytest.raises(LeaseLost):
            bench.jobs.heartbeat(lease)


def test_webhooks_get_the_message_that_a_worker_was_lost(bench, job_service):
    job = bench.job()
    with write_session(job_service.engine) as session:
        fields = {"id": "whk_1", "owner": LOCAL_OWNER, "url": "http://a", "secret": "whsec_", "is_enabled": True}
        session.add(Webhook(**fields, events=["job.worker_lost"], created_at=bench.clock()))
    bench.jobs.requeue_worker(bench.claim().worker_id)
    with read_session(job_service.engine) as session:
        messages = session.exec(sa.select(Delivery.job_id, Delivery.event)).all()
    assert [tuple(each) for each in messages] == [(job.id, "job.worker_lost")]


def test_the_next_attempt_learns_of_the_engine_before_it(bench):
    bench.job()
    first = bench.claim()
    assert bench.jobs.previous_engine(first) is None
    bench.jobs.record_engine_process(first, 4711, 123.5)
    bench.jobs.release(first, "drained")
    assert bench.jobs.previous_engine(bench.claim()) == EngineProcess(4711, 123.5, "here")


def test_what_the_engine_says_lands_in_the_row_the_events_and_the_metrics(bench):
    job = bench.job()
    lease = bench.claim()
    training = {"epoch": 2, "total_epochs": 3, "step": 20, "total_steps": 30, "step_seconds": 0.5}
    training |= {"clips_per_second": 8.0, "machine_share": 0.4}
    bench.jobs.record_events(
        lease,
        [
            StageChanged(stage="slice", state="finished", seconds=1.5),
            StageChanged(stage="train", state="started"),
            Warned(message="a.wav cannot be read", stage="slice"),
            Progress(stage="train", stage_progress=0.1, progress=0.2),
            Progress(stage="train", stage_progress=0.5, progress=0.6, eta_seconds=30, **training),
            Measured(step=19, epoch=2, values={"loss/mel": 30.0}),
            Measured(step=20, epoch=2, values={"loss/mel": 29.0, "loss/kl": math.nan}),
            CheckpointSaved(step=20, epoch=2, path="/x"),
            Log(message="only for the log"),
        ],
    )
    row = bench.jobs.get(job.id)
    assert (row.stage, row.progress, row.eta_seconds, row.step, row.num_warnings) == ("train", 0.6, 30.0, 20, 1)
    assert row.losses == {"loss/mel": 29.0}
    new = ["stage_changed", "stage_changed", "warning", "progress", "metric", "checkpoint_saved"]
    assert types_of(bench.jobs, job.id) == ["created", "validated", "queued", "started", *new]
    told = JobQueries(bench.jobs.engine).events(job.id, 0, 100).events
    [progress] = [event for event in told if event.type == "progress"]
    assert (progress.data["clips_per_second"], progress.data["machine_share"]) == (8.0, 0.4)
    series = {each.key: each for each in JobQueries(bench.jobs.engine).metrics(job.id, (), 0, 100)}
    assert (series["loss/mel"].steps, series["loss/mel"].values) == ([19, 20], [30.0, 29.0])
    assert series["loss/kl"].values == [None]


def test_progress_never_decreases_and_failures_are_counted_apart_from_pauses(bench):
    job = bench.job(max_attempts=2)
    lease = bench.claim()
    bench.jobs.record_events(lease, [Progress(stage="train", stage_progress=0.5, progress=0.5)])
    bench.jobs.pause(job.id)
    bench.jobs.release(lease, "paused")
    bench.jobs.resume(job.id)
    lease = bench.claim()
    bench.jobs.record_events(lease, [Progress(stage="train", stage_progress=0.4, progress=0.4)])
    row = bench.jobs.get(job.id)
    assert (row.progress, row.claims, row.failures) == (0.5, 2, 0)
    bench.jobs.fail(lease, FailureCode.ENGINE_CRASHED, "it crashed")
    assert bench.jobs.get(job.id).failures == 1


def test_what_training_reached_stays_in_the_row_while_later_stages_run(bench):
    job = bench.job()
    lease = bench.claim()
    bench.jobs.record_events(
        lease, [Progress(stage="train", stage_progress=1, progress=0.9, epoch=3, step=30, eta_seconds=5)]
    )
    bench.jobs.record_events(lease, [Progress(stage="index", stage_progress=0.5, progress=0.95)])
    row = bench.jobs.get(job.id)
    assert (row.stage, row.epoch, row.step, row.eta_seconds) == ("index", 3, 30, None)


def test_a_step_done_again_after_a_resume_replaces_its_numbers(bench):
    job = bench.job()
    lease = bench.claim()
    for value in (5.0, 4.0):
        bench.jobs.record_events(lease, [Measured(step=1, epoch=1, values={"loss/mel": value})])
    assert JobQueries(bench.jobs.engine).metrics(job.id, (), 0, 100)[0].values == [4.0]


def test_a_long_series_is_thinned_and_keeps_its_last_point(bench):
    job = bench.job()
    lease = bench.claim()
    bench.jobs.record_events(
        lease, [Measured(step=i, epoch=1, values={"a": float(i), "b": 0.0}) for i in range(1, 1004)]
    )
    history = JobQueries(bench.jobs.engine)
    (series,) = history.metrics(job.id, ["a"], 0, 100)
    assert series.num_points == 1003
    assert 80 <= len(series.steps) <= 101
    assert series.steps[-1] == 1003
    assert history.metrics(job.id, ["a"], 1000, 100)[0].steps == [1001, 1002, 1003]


def test_events_are_numbered_per_job_without_a_gap_under_threads(bench):
    jobs = [bench.job() for _ in range(3)]
    claims = [bench.claim() for _ in jobs]

    def talk(lease):
        for _ in range(15):
            bench.jobs.record_events(lease, [Warned(message="a"), Warned(message="b")])

    threads = [threading.Thread(target=talk, args=(lease,)) for lease in claims for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read_session(bench.jobs.engine) as session:
        for job in jobs:
            seqs = session.execute(sa.select(Event.seq).where(Event.job_number == job.number)).scalars().all()
            assert sorted(seqs) == list(range(1, 4 + 60 + 1))


def test_a_lost_worker_is_found_by_a_standing_heartbeat_and_not_by_the_wall_clock(bench):
    job = bench.job()
    lease = bench.claim()
    now = [0.0]
    reaper = Reaper(bench.jobs, 60, lambda: now[0], max_gap=1000)
    reaper.sweep()
    bench.clock.advance(86_400)  # someone set the clock
    now[0] = 59
    assert reaper.sweep() == 0
    bench.jobs.heartbeat(lease)
    now[0] = 100
    assert reaper.sweep() == 0
    now[0] = 160
    assert reaper.sweep() == 1
    assert bench.jobs.get(job.id).status == JobStatus.QUEUED
    with pytest.raises(LeaseLost):
        bench.jobs.heartbeat(lease)


def test_a_reaper_that_slept_begins_to_watch_afresh(bench):
    bench.job()
    bench.claim()
    now = [0.0]
    reaper = Reaper(bench.jobs, 60, lambda: now[0], max_gap=30)
    reaper.sweep()
    now[0] = 500
    assert reaper.sweep() == 0


def test_a_job_that_loses_its_worker_too_often_has_failed(bench):
    job = bench.job()
    for expected in (JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.FAILED):
        bench.claim()
        assert bench.jobs.requeue_lost(bench.jobs.active_leases()[0]) == expected
    assert bench.jobs.get(job.id).error_code == FailureCode.WORKER_LOST
    with read_session(bench.jobs.engine) as session:
        assert session.execute(sa.select(Attempt.outcome)).scalars().all() == ["lost", "lost", "lost"]


def test_jobs_of_a_dataset_wait_for_its_report_and_go_on_or_fail_with_the_reason(bench):
    job = bench.job(DatasetStatus.VALIDATING)
    assert job.status == JobStatus.VALIDATING
    with write_session(bench.jobs.engine) as session:
        bench.jobs.finish_dataset_validation(session, job.dataset_id, "only silence")
    row = bench.jobs.get(job.id)
    assert (row.status, row.error_code, row.error_message) == ("failed", "invalid_dataset", "only silence")


def test_a_job_on_an_unknown_or_unusable_dataset_is_refused(bench):
    with pytest.raises(Refused, match="it is silent"):
        bench.job(DatasetStatus.INVALID)
    with pytest.raises(Refused, match="upload one first"):
        bench.jobs.submit(JobCreate(name="anna", dataset_id="ds_none"))


def test_the_same_key_gives_the_same_job_for_a_day_and_another_request_is_refused(bench):
    request = JobCreate(name="anna", dataset_id=bench.dataset())
    once = IdempotentRequest(LOCAL_OWNER, "k", request_fingerprint(request))
    first = bench.jobs.submit(request, idempotent=once)
    again = bench.jobs.submit(request, idempotent=once)
    assert (again.job_id, again.answer, again.is_replay) == (first.job_id, first.answer, True)
    other = request.model_copy(update={"name": "bob"})
    with pytest.raises(Refused, match="used for another request"):
        bench.jobs.submit(other, idempotent=IdempotentRequest(LOCAL_OWNER, "k", request_fingerprint(other)))
    bench.clock.advance(24 * 3600 + 1)
    assert bench.jobs.submit(request, idempotent=once).job_id != first.job_id


def test_a_key_whose_answer_was_not_stored_by_an_older_version_gives_the_same_job(bench):
    request = JobCreate(name="anna", dataset_id=bench.dataset())
    once = IdempotentRequest(LOCAL_OWNER, "k", request_fingerprint(request))
    first = bench.jobs.submit(request, idempotent=once)
    with write_session(bench.jobs.engine) as session:
        session.execute(sa.update(IdempotencyKey).values(answer=None))
    assert bench.jobs.submit(request, idempotent=once) == replace(first, is_replay=True)


def test_a_job_is_deleted_with_all_its_rows_and_only_after_its_end(bench):
    job = bench.job()
    lease = bench.claim()
    bench.jobs.record_events(lease, [Measured(step=1, epoch=1, values={"a": 1.0})])
    bench.publish(lease)
    with pytest.raises(Conflict, match="cancel it before"):
        bench.jobs.delete(job.id)
    bench.jobs.succeed(lease)
    bench.jobs.delete(job.id)
    with pytest.raises(NotFound):
        bench.jobs.get(job.id)
    with bench.jobs.engine.begin() as connection:
        for table in (Event, Metric, Artifact, Attempt):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0


def test_lists_are_cut_into_pages_newest_first(bench):
    ids = [bench.job().id for _ in range(5)][::-1]
    page, after = bench.jobs.list(limit=2)
    assert ([job.id for job in page], after) == (ids[:2], page[-1].number)
    page, after = bench.jobs.list(limit=3, after=after)
    assert ([job.id for job in page], after) == (ids[2:], None)


def test_a_list_in_the_order_of_the_queue_is_cut_into_pages_and_counted_by_status(bench):
    ids = {
        priority: [bench.job(priority=priority, labels={"a": ""}).id for _ in range(2)] for priority in (-100, 0, 100)
    }
    in_order = [*ids[100], *ids[0], *ids[-100]]
    bench.jobs.cancel(in_order.pop(1))
    bench.job(name="bella")
    wanted = JobFilter(search="ann", labels={"a": ""})
    with read_session(bench.jobs.engine) as session:
        page, after = next_jobs(session, wanted, None, 3)
        assert [job.id for job in page] == in_order[:3]
        page, after = next_jobs(session, wanted, after, 3)
        assert ([job.id for job in page], after) == (in_order[3:], None)
        assert numbers_by_status(session, wanted) == {"queued": 5, "cancelled": 1}


@pytest.mark.sqlite
def test_a_writer_waits_when_another_process_holds_the_lock_for_a_moment(bench):
    """A writer that finds the database locked does not fail."""
    job = bench.job()
    other = JobService(bench.jobs.engine, bench.clock)
    released = threading.Event()
    with bench.jobs.engine.connect() as connection:
        transaction = connection.begin()
        thread = threading.Thread(target=lambda: (other.cancel(job.id), released.set()))
        thread.start()
        assert not released.wait(0.3)
        transaction.commit()
        thread.join(5)
    assert bench.jobs.get(job.id).status == JobStatus.CANCELLED


def test_with_the_default_settings_a_lost_workers_job_is_free_again_within_75_seconds(bench):
    """For any time of its last heartbeat between two sweeps; the next worker polls once a second."""
    settings = ServerSettings()
    sweep_seconds = min(settings.reaper_seconds, settings.lease_seconds / 4)
    for beat_after_sweep in (0.0, 0.1, sweep_seconds / 2, sweep_seconds - 0.01):
        job = bench.job()
        lease = bench.claim()
        clock = Ticker()
        reaper = Reaper(bench.jobs, settings.lease_seconds, clock)
        reaper.sweep()
        died_at = clock.now + beat_after_sweep
        bench.jobs.heartbeat(lease)
        while bench.jobs.get(job.id).status == JobStatus.RUNNING:
            clock.now += sweep_seconds + 0.02  # a thread that wakes up a little late each time
            reaper.sweep()
        assert settings.lease_seconds - sweep_seconds <= clock.now - died_at <= 75 - WorkerSettings().poll_seconds - 2
        bench.jobs.cancel(job.id)


class Ticker:
    now = 1000.0

    def __call__(self) -> float:
        return self.now
