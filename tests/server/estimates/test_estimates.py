"""What a job would take: from what was measured, else scaled, else a guess that says so; and when it would start."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.config import TrainingConfig
from rvc_engine.events import Progress, StageChanged
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import Range
from rvc_train.schemas.queue import JobEstimate
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Worker
from server.estimates.estimator import Estimator, audio_stats
from server.estimates.queue_forecast import QueueForecast
from server.estimates.resources import disk_bytes, memory_bytes
from server.estimates.throughput import AttemptThroughput, Devices, ThroughputHistory
from server.jobs.serializers import jobs_public

SMALL = {"width": 24, "pretrained": "none", "content": "whisper-tiny", "batch_size": 4, "total_epochs": 10}


def throughput(step_seconds: float, device: str = "a GPU", **config: Any) -> AttemptThroughput:
    made = TrainingConfig(**config).model_dump(mode="json")
    return AttemptThroughput(device, made, step_seconds, {"content": 6.0, "index": 2.0, "export": 1.0}, 120.0)


def test_a_step_takes_what_it_took_with_the_same_setting_on_the_same_device() -> None:
    history = ThroughputHistory(
        (throughput(0.5), throughput(0.6), throughput(9.0, "another"), throughput(3.0, batch_size=16))
    )
    found = history.step(TrainingConfig(), Devices("cuda", frozenset({"a GPU"})))
    assert found.basis == "measured"
    assert 0.4 < found.seconds.low < 0.5
    assert 0.6 < found.seconds.high < 0.9


def test_another_batch_size_is_scaled_between_not_at_all_and_in_proportion() -> None:
    found = ThroughputHistory((throughput(1.0, batch_size=4),)).step(
        TrainingConfig(batch_size=8), Devices("cuda", frozenset({"a GPU"}))
    )
    assert found.basis == "scaled"
    assert (found.seconds.low, found.seconds.high) == pytest.approx((0.9, 2.5))


def test_where_nothing_was_measured_the_answer_is_wide_and_says_that_it_is_a_guess() -> None:
    found = ThroughputHistory().step(TrainingConfig(), Devices("cpu"))
    assert found.basis == "guess"
    assert found.seconds.high / found.seconds.low >= 5
    other = ThroughputHistory((throughput(0.1, "a GPU"),)).step(TrainingConfig(), Devices("cpu", frozenset({"a CPU"})))
    assert other.basis == "guess"


def test_stages_take_in_proportion_to_the_sound() -> None:
    history = ThroughputHistory((throughput(1.0),))
    found = history.stage("content", TrainingConfig(), Devices(), 1200)
    assert found is not None
    assert found.low < 60 < found.high
    assert history.stage("content", TrainingConfig(content="whisper-tiny", pretrained="none"), Devices(), 1200) is None


def test_disk_is_what_a_real_small_run_took_and_grows_with_saves_and_width() -> None:
    """A run on 138 s of sound with width 24, three epochs and one save left about 200 MB."""
    small = TrainingConfig(**SMALL | {"total_epochs": 3})
    assert disk_bytes(small, 138).low < 200e6 < disk_bytes(small, 138).high
    full = TrainingConfig(total_epochs=100, save_every_epochs=50)
    assert disk_bytes(full, 138).low > 4 * 1.2e9  # two checkpoints and one being written, and two saves
    assert disk_bytes(full, 138).high > disk_bytes(TrainingConfig(total_epochs=1, save_every_epochs=1), 138).high
    assert memory_bytes(full, (8, 8), None).low > memory_bytes(full, (4, 4), None).low > 2e9


def reported_dataset(bench: Any, seconds: float = 120.0) -> str:
    dataset_id = bench.dataset()
    with write_session(bench.jobs.engine) as session:
        values = {"seconds": seconds, "num_usable": 5, "report": {"speech_seconds": 0.9 * seconds, "warnings": ["hm"]}}
        session.execute(sa.update(Dataset).where(Dataset.id == dataset_id).values(**values))
    return str(dataset_id)


def run_once(bench: Any, dataset_id: str, step_seconds: float) -> None:
    """A job that trained 14 steps an epoch."""
    bench.job_on(dataset_id)
    lease = bench.claim()
    bench.jobs.record_events(
        lease,
        [
            StageChanged(stage="content", state="finished", seconds=2.0),
            Progress(
                stage="train",
                stage_progress=0.5,
                progress=0.5,
                step=70,
                total_steps=140,
                total_epochs=10,
                step_seconds=step_seconds,
            ),
        ],
    )
    bench.publish(lease)
    bench.jobs.succeed(lease)


@pytest.fixture
def shop(bench: Any) -> Any:
    def job_on(dataset_id: str, **request: object) -> Any:
        from rvc_train.schemas.jobs import JobCreate

        fields = {"name": "anna", "dataset_id": dataset_id, "config": TrainingConfig(**SMALL)} | request
        return bench.jobs.submit(JobCreate(**fields))

    bench.job_on = job_on
    return bench


def test_clips_are_known_from_an_earlier_job_on_the_dataset(shop: Any) -> None:
    dataset_id = reported_dataset(shop)
    with read_session(shop.jobs.engine) as session:
        before = audio_stats(session, [dataset_id])[dataset_id].clips
    run_once(shop, dataset_id, 0.5)
    with read_session(shop.jobs.engine) as session:
        after = audio_stats(session, [dataset_id])[dataset_id].clips
    assert (after.low, after.high) == (53, 56)
    assert before.low < 53
    assert before.high < 60


def test_time_is_bounded_by_max_train_seconds(shop: Any) -> None:
    dataset_id = reported_dataset(shop)
    run_once(shop, dataset_id, 0.5)
    outlook = QueueForecast(Estimator(60))
    with read_session(shop.jobs.engine) as session:
        situation = outlook.estimator.context(session, shop.clock())
        sound = audio_stats(session, [dataset_id])[dataset_id]
        whole = situation.workload(TrainingConfig(**SMALL), sound)
        short = situation.workload(TrainingConfig(**SMALL, max_train_seconds=10), sound)
    assert whole.steps == Range(low=140, high=140)
    assert whole.seconds.low >= 60
    assert short.seconds.high < whole.seconds.high
    assert short.steps.high < 140


def prospects(shop: Any, *jobs: Any) -> list[Any]:
    with read_session(shop.jobs.engine) as session:
        rows = [shop.jobs.get(job.id) for job in jobs]
        return jobs_public(session, rows, QueueForecast(Estimator(60)), shop.clock())


def test_a_waiting_job_starts_after_those_before_it_and_sooner_with_more_workers(shop: Any) -> None:
    dataset_id = reported_dataset(shop)
    run_once(shop, dataset_id, 0.5)
    with write_session(shop.jobs.engine) as session:
        session.execute(sa.update(Worker).values(stopped_at=shop.clock()))
    first, second = shop.job_on(dataset_id), shop.job_on(dataset_id)
    assert [job.starts_in for job in prospects(shop, first, second)] == [None, None]  # nobody works
    worker = shop.worker()
    alone = prospects(shop, first, second)
    assert alone[0].starts_in == Range(low=0, high=0)
    assert alone[1].starts_in == alone[0].eta
    assert alone[0].eta.low > 60
    assert alone[0].eta.low < alone[0].eta.high
    shop.worker()
    assert prospects(shop, second)[0].starts_in == Range(low=0, high=0)
    shop.jobs.drain_worker(worker, "hand_back")
    assert prospects(shop, second)[0].starts_in == alone[0].eta


def test_a_running_job_ends_about_when_its_engine_says_and_those_behind_it_wait_for_that(shop: Any) -> None:
    dataset_id = reported_dataset(shop)
    running, waiting = shop.job_on(dataset_id), shop.job_on(dataset_id)
    lease = shop.claim()
    said = Progress(stage="train", stage_progress=0.5, progress=0.5, eta_seconds=100, step=1)
    shop.jobs.record_events(lease, [said])
    now, next_one = prospects(shop, running, waiting)
    assert now.eta.low <= 100 <= now.eta.high
    assert next_one.starts_in == now.eta
    shop.clock.advance(61)  # the worker is silent: nobody is there to count on
    assert prospects(shop, waiting)[0].starts_in is None


def test_a_job_of_which_nothing_can_be_told_hides_those_behind_it_and_only_those(shop: Any) -> None:
    known, unknown = reported_dataset(shop), shop.dataset()
    jobs = [shop.job_on(each) for each in (known, unknown, known)]
    shop.worker()
    seen = prospects(shop, *jobs)
    assert [job.starts_in is None for job in seen] == [False, False, True]
    assert [job.eta is None for job in seen] == [False, True, True]


def test_the_estimate_of_a_job_comes_over_http_with_warnings_and_changes_nothing(http: Any, live: Any) -> None:
    bench = live.bench
    dataset_id = reported_dataset(bench)
    before = http.get("/v1/jobs").json()["data"]
    answer = http.post("/v1/jobs:estimate", json={"dataset_id": dataset_id, "config": {"total_epochs": 2}})
    found = JobEstimate.model_validate_json(answer.content)
    assert found.basis == "guess"
    assert found.speech_seconds == pytest.approx(108)
    assert found.steps.low < found.steps.high
    assert found.seconds.low < found.seconds.high
    text = "\n".join(found.warnings)
    assert "hm" in text
    assert "rvc-engine weights fetch" in text
    assert http.get("/v1/jobs").json()["data"] == before
    assert http.post("/v1/jobs:estimate", json={"dataset_id": "ds_none"}).status_code == 422
    validating = bench.dataset(DatasetStatus.VALIDATING)
    early = http.post("/v1/jobs:estimate", json={"name": "x", "dataset_id": validating, "config": SMALL}).json()
    assert (early["seconds"], early["steps"], early["dataset_status"]) == (None, None, "validating")
    assert early["gpu_memory_bytes"]["low"] > 0


def test_a_worker_long_silent_is_none_to_count_on(shop: Any) -> None:
    shop.worker()
    estimator = Estimator(60)
    with read_session(shop.jobs.engine) as session:
        assert len(estimator.workers(session, shop.clock())) == 1
        assert estimator.workers(session, datetime.now(UTC) + timedelta(days=1)) == []
