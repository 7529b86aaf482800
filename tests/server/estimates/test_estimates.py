"""Estimates: times measured by finished jobs of the same kind, unknown otherwise; disk and memory by arithmetic."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.calibration.results import Calibration
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Progress
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate, JobPublic, Range
from rvc_train.schemas.queue import JobEstimate
from rvc_train.schemas.workers import share_name
from server.database.engine import read_session, write_session
from server.database.tables import Attempt, Dataset, Job, Worker
from server.estimates.calibrations import Calibrations
from server.estimates.costs import Sound, predict
from server.estimates.durations import Durations, MeasuredJob
from server.estimates.estimates import Estimator
from server.estimates.resources import batch_range, disk_bytes, memory_bytes
from server.job_store.liveness import WorkerLiveness
from server.jobs.serializers import jobs_public
from server.storage.local import Storage

SMALL = {"width": 24, "pretrained": "none", "content": "whisper-tiny", "batch_size": 4, "total_epochs": 10}
JOB_SECONDS = 100.0
"""Duration of `finish_job`: 70 s of training, 30 s of everything else."""


def reported_dataset(bench: Any, seconds: float = 120.0) -> str:
    dataset_id = bench.dataset()
    with write_session(bench.jobs.engine) as session:
        values = {"seconds": seconds, "num_usable": 5, "report": {"speech_seconds": 0.9 * seconds, "warnings": ["hm"]}}
        session.execute(sa.update(Dataset).where(Dataset.id == dataset_id).values(**values))
    return str(dataset_id)


def submit(bench: Any, dataset_id: str, **config: object) -> Job:
    request = JobCreate(name="anna", dataset_id=dataset_id, config=TrainingConfig(**SMALL | config))
    return bench.jobs.get(bench.jobs.submit(request).job_id)


def finish_job(bench: Any, dataset_id: str, device_name: str | None = None, **config: object) -> None:
    """Run a job of 140 steps of 0.5 s, 14 an epoch, in 100 s."""
    job = submit(bench, dataset_id, **config)
    worker_id = bench.jobs.register_worker("worker", 1, "here", "cuda:0", device_name=device_name)
    lease = bench.jobs.claim(worker_id)
    bench.clock.advance(JOB_SECONDS)
    progress = Progress(
        stage="train", stage_progress=1, progress=0.9, step=140, total_steps=140, total_epochs=10, step_seconds=0.5
    )
    bench.jobs.record_events(lease, [progress])
    bench.publish(lease)
    bench.jobs.succeed(lease)
    bench.jobs.deregister_worker(worker_id)
    assert lease.job_id == job.id


def forecasts(bench: Any, *jobs: Job, estimator: Estimator | None = None) -> list[JobPublic]:
    with read_session(bench.jobs.engine) as session:
        rows = [bench.jobs.get(job.id) for job in jobs]
        return jobs_public(session, rows, estimator or Estimator(), bench.clock())


def comparable(bench: Any, **config: object) -> list[MeasuredJob]:
    with read_session(bench.jobs.engine) as session:
        estimator = Estimator()
        workers = estimator.live_workers(session, bench.clock())
        return estimator.comparable(session, TrainingConfig(**SMALL | config).model_dump(mode="json"), workers)


def test_a_finished_job_measures_jobs_with_the_same_settings_and_no_others(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    assert comparable(bench) == []
    finish_job(bench, dataset_id)
    assert comparable(bench) == [MeasuredJob(None, 120.0, 14.0, 0.5, 30.0)]
    assert len(comparable(bench, total_epochs=99, seed=5)) == 1, "the number of epochs does not change a step"
    for other in ({"batch_size": 8}, {"width": 48}, {"precision": "fp32"}, {"pitch": "fcpe"}, {"evaluate": "never"}):
        assert comparable(bench, **other) == [], other


def test_times_grow_with_epochs_and_audio_and_end_at_max_train_seconds() -> None:
    measured = MeasuredJob("a GPU", audio_seconds=120, steps_per_epoch=14, step_seconds=0.5, other_seconds=30)
    assert measured.workload({"total_epochs": 10}, 120) == (140, 100)
    assert measured.workload({"total_epochs": 20}, 120) == (280, 170)
    assert measured.workload({"total_epochs": 10}, 240) == (280, 200)
    assert measured.workload({"total_epochs": 10, "max_train_seconds": 20}, 120) == (40, 50)


def test_a_job_that_ends_by_itself_takes_from_its_earliest_end_to_its_last_epoch(bench: Any) -> None:
    measured = MeasuredJob("a GPU", audio_seconds=120, steps_per_epoch=14, step_seconds=0.5, other_seconds=30)
    auto = {"total_epochs": "auto", "max_epochs": 100}
    assert measured.workload(auto, 120, at_least=True) == (400, 230)
    assert measured.workload(auto, 120) == (1400, 730)
    assert measured.workload(auto, 1200, at_least=True)[0] == 8 * 140, "an epoch is longer than from save to save"
    assert measured.workload(auto | {"max_epochs": 20}, 120, at_least=True)[0] == 280
    assert measured.workload(auto | {"max_train_seconds": 20}, 120, at_least=True) == (40, 50)
    dataset_id = reported_dataset(bench)
    finish_job(bench, dataset_id)
    waiting = submit(bench, dataset_id, total_epochs="auto", max_epochs=100)
    bench.jobs.register_worker("worker", 1, "here", "cuda:0")
    (job,) = forecasts(bench, waiting)
    assert (job.eta.low, job.eta.high) == (pytest.approx(0.8 * 230), pytest.approx(1.3 * 730))


def test_only_jobs_on_a_live_workers_device_are_comparable(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    finish_job(bench, dataset_id, "a GPU")
    finish_job(bench, dataset_id, "another GPU")
    assert len(comparable(bench)) == 2, "no live worker: any device of this server"
    bench.jobs.register_worker("worker", 1, "here", "cuda:0", device_name="a GPU")
    assert [job.device_name for job in comparable(bench)] == ["a GPU"]


@pytest.mark.parametrize(
    ("table", "values"),
    [(Attempt, {"attempt": 2}), (Attempt, {"step_seconds": None}), (Dataset, {"seconds": None})],
)
def test_a_job_that_was_interrupted_or_not_measured_is_not_comparable(
    bench: Any, table: type[Any], values: dict[str, object]
) -> None:
    finish_job(bench, reported_dataset(bench))
    with write_session(bench.jobs.engine) as session:
        session.execute(sa.update(table).values(**values))
    assert comparable(bench) == []


def test_a_waiting_job_starts_after_those_before_it_and_sooner_with_more_workers(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    finish_job(bench, dataset_id)
    first, second = submit(bench, dataset_id), submit(bench, dataset_id)
    assert [job.starts_in for job in forecasts(bench, first, second)] == [None, None], "no live worker"
    worker_id = bench.worker()
    alone = forecasts(bench, first, second)
    assert alone[0].starts_in == Range(low=0, likely=0, high=0)
    assert alone[1].starts_in == alone[0].eta
    assert alone[0].eta.low < JOB_SECONDS < alone[0].eta.high
    bench.worker()
    assert forecasts(bench, second)[0].starts_in == Range(low=0, likely=0, high=0)
    bench.jobs.drain_worker(worker_id, "hand_back")
    assert forecasts(bench, second)[0].starts_in == alone[0].eta


def test_a_running_job_ends_as_its_engine_reports_and_the_next_one_waits_for_that(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    running, waiting = submit(bench, dataset_id), submit(bench, dataset_id)
    lease = bench.claim()
    bench.jobs.record_events(
        lease, [Progress(stage="train", stage_progress=0.5, progress=0.5, eta_seconds=100, step=1)]
    )
    seconds = [0.0]
    estimator = Estimator(WorkerLiveness(60, lambda: seconds[0]))
    now, next_one = forecasts(bench, running, waiting, estimator=estimator)
    assert now.eta.low < 100 < now.eta.high
    assert (next_one.starts_in, next_one.eta) == (now.eta, None)
    seconds[0] += 61  # no heartbeat for longer than a lease
    assert forecasts(bench, waiting, estimator=estimator)[0].starts_in is None


def test_without_a_measurement_only_the_start_on_an_idle_worker_is_known(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    jobs = [submit(bench, dataset_id) for _ in range(2)]
    bench.worker()
    first, second = forecasts(bench, *jobs)
    assert (first.starts_in, first.eta) == (Range(low=0, likely=0, high=0), None)
    assert (second.starts_in, second.eta) == (None, None)
    bench.claim()
    assert forecasts(bench, jobs[0])[0].eta is None
    assert forecasts(bench, jobs[1])[0].starts_in == Range(low=0, likely=0, high=0), "on the other worker"


def test_the_unknown_duration_of_a_job_hides_only_the_jobs_behind_it(bench: Any) -> None:
    known, unknown = reported_dataset(bench), bench.dataset()
    finish_job(bench, known)
    jobs = [submit(bench, each) for each in (known, unknown, known)]
    bench.worker()
    seen = forecasts(bench, *jobs)
    assert [job.starts_in is None for job in seen] == [False, False, True]
    assert [job.eta is None for job in seen] == [False, True, True]


def test_disk_is_near_that_of_a_real_small_run_and_grows_with_saves_and_width() -> None:
    """A run on 138 s of audio with width 24, three epochs and one save left about 200 MB."""
    small = TrainingConfig(**SMALL | {"total_epochs": 3})
    assert disk_bytes(small, 138).low < 200e6 < disk_bytes(small, 138).high
    full = TrainingConfig(total_epochs=100, save_every_epochs=50)
    assert disk_bytes(full, 138).low > 4 * 1.2e9, "two checkpoints, one being written, and two saves"
    assert disk_bytes(full, 138).high > disk_bytes(TrainingConfig(total_epochs=1, save_every_epochs=1), 138).high


def test_memory_grows_with_the_batch() -> None:
    full = TrainingConfig(total_epochs=100, save_every_epochs=50)
    assert memory_bytes(full, (8, 8), None).low > memory_bytes(full, (4, 4), None).low > 2e9
    assert batch_range(TrainingConfig(batch_size=8, accumulate_steps=2), has_gpu=True) == (16, 16)
    assert batch_range(TrainingConfig(batch_size="auto"), has_gpu=True) == (4, 32)


def test_an_estimate_over_http_is_unknown_before_the_first_job_and_changes_nothing(http: Any, live: Any) -> None:
    bench = live.bench
    dataset_id = reported_dataset(bench)
    before = http.get("/v1/jobs").json()["data"]
    answer = http.post("/v1/jobs:estimate", json={"dataset_id": dataset_id, "config": {"total_epochs": 2}})
    found = JobEstimate.model_validate_json(answer.content)
    assert (found.basis, found.seconds, found.steps, found.num_clips, found.starts_in) == (None,) * 5
    assert "no job with these settings" in found.basis_detail
    assert found.speech_seconds == pytest.approx(108)
    assert found.disk_bytes.low < found.disk_bytes.high
    text = "\n".join(found.warnings)
    assert "hm" in text
    assert "rvc-engine weights fetch" in text
    assert "no worker is running" in text
    assert http.get("/v1/jobs").json()["data"] == before
    assert http.post("/v1/jobs:estimate", json={"dataset_id": "ds_none"}).status_code == 422
    validating = bench.dataset(DatasetStatus.VALIDATING)
    early = http.post("/v1/jobs:estimate", json={"name": "x", "dataset_id": validating, "config": SMALL}).json()
    assert (early["seconds"], early["steps"], early["dataset_status"]) == (None, None, "validating")
    assert early["gpu_memory_bytes"]["low"] > 0


def test_an_estimate_over_http_is_measured_by_a_finished_job(tmp_path: Any, serve: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.estimates.durations.CACHE_SECONDS", 0)
    with serve(tmp_path) as server, server.client() as http:
        bench = server.bench
        dataset_id = reported_dataset(bench)
        finish_job(bench, dataset_id)
        with write_session(bench.jobs.engine) as session:  # the server's own clock did not advance
            job_seconds = timedelta(seconds=JOB_SECONDS)
            started_at = session.scalars(sa.select(Attempt.started_at)).one()
            session.execute(sa.update(Attempt).values(ended_at=started_at + job_seconds))
        answer = http.post("/v1/jobs:estimate", json={"dataset_id": dataset_id, "config": SMALL})
        found = JobEstimate.model_validate_json(answer.content)
        assert found.basis == "measured"
        assert found.steps == Range(low=140, high=140)
        assert found.num_clips == Range(low=53, high=56)
        assert found.seconds.low < JOB_SECONDS < found.seconds.high


def test_a_worker_without_a_recent_heartbeat_is_not_live(bench: Any) -> None:
    bench.worker()
    estimator = Estimator()
    with read_session(bench.jobs.engine) as session:
        assert len(estimator.live_workers(session, bench.clock())) == 1
        assert estimator.live_workers(session, datetime.now(UTC) + timedelta(days=1)) == []
        assert session.scalars(sa.select(Worker.stopped_at)).one() is None


CALIBRATION = Calibration.model_validate(
    {
        "version": "1",
        "torch": "2",
        "device": "cpu",
        "num_threads": 2,
        "precision": "bf16",
        "measured_at": "2026-11-30T12:00:00Z",
        "took_seconds": 15,
        "start_seconds": 3,
        "slice_seconds": 0.002,
        "pitch_seconds": 0.01,
        "content_seconds": 0.01,
        "load_seconds": 0.1,
        "steps": [
            {"width": 24, "batch_size": 1, "seconds": 0.3},
            {"width": 24, "batch_size": 3, "seconds": 0.6},
            {"width": 192, "batch_size": 1, "seconds": 3},
        ],
    }
)


def test_a_calibration_estimates_the_first_job_and_the_queue(bench: Any, tmp_path: Any) -> None:
    dataset_id, calibrations = reported_dataset(bench), Calibrations(Storage(tmp_path))
    jobs = [submit(bench, dataset_id), submit(bench, dataset_id)]
    bench.jobs.register_worker("worker", 1, "here", "cpu", device_name="a CPU")
    assert forecasts(bench, jobs[0], estimator=Estimator(calibrations=calibrations))[0].eta is None
    calibrations.write("a CPU", CALIBRATION)
    first, second = forecasts(bench, *jobs, estimator=Estimator(calibrations=Calibrations(Storage(tmp_path))))
    assert first.eta.low == pytest.approx(first.eta.likely / 2)
    assert first.eta.high == pytest.approx(first.eta.likely * 2)
    assert 30 < first.eta.likely < 300, "100 steps of 0.75 s"
    assert second.starts_in == first.eta
    assert second.eta.likely == pytest.approx(2 * first.eta.likely)


def test_a_finished_job_with_other_settings_corrects_the_calibration(bench: Any, tmp_path: Any) -> None:
    dataset_id, calibrations = reported_dataset(bench), Calibrations(Storage(tmp_path))
    calibrations.write("a CPU", CALIBRATION)
    likely = {}
    for name in ("before", "after"):
        worker_id = bench.jobs.register_worker("worker", 1, "here", "cpu", device_name="a CPU")
        with read_session(bench.jobs.engine) as session:
            durations = Durations(calibrations)
            config = TrainingConfig(**SMALL | {"width": 48}).model_dump(mode="json")
            sound = durations.sounds(session, [dataset_id])[dataset_id]
            found = durations.of(session, config, sound, Estimator().live_workers(session, bench.clock()))
        likely[name] = found
        bench.jobs.deregister_worker(worker_id)
        if name == "before":
            finish_job(bench, dataset_id, "a CPU")
    before, after = likely["before"], likely["after"]
    assert (before.basis, before.num_jobs, after.basis, after.num_jobs) == ("calibrated", 0, "calibrated", 1)
    predicted = predict(CALIBRATION, TrainingConfig(**SMALL), Sound(120, 120, 5)).seconds
    assert after.seconds.likely == pytest.approx(before.seconds.likely * JOB_SECONDS / predicted)
    assert after.seconds.high / after.seconds.low < before.seconds.high / before.seconds.low


def test_a_calibration_is_kept_for_a_device_and_versions(tmp_path: Any) -> None:
    calibrations = Calibrations(Storage(tmp_path))
    assert calibrations.is_missing("a CPU", "1", "2", 2)
    calibrations.write("a CPU", CALIBRATION)
    assert not calibrations.is_missing("a CPU", "1", "2", 2)
    assert not calibrations.is_missing("a CPU", "1", None, 2)
    for other in (("a GPU", "1", "2", 2), ("a CPU", "1.1", "2", 2), ("a CPU", "1", "2.1", 2), ("a CPU", "1", "2", 4)):
        assert calibrations.is_missing(*other), other
    next((tmp_path / "calibrations").iterdir()).write_text("{")
    assert calibrations.is_missing("a CPU", "1", "2", 2)


def test_jobs_on_a_share_of_a_device_and_on_all_of_it_are_measured_apart(bench: Any) -> None:
    dataset_id = reported_dataset(bench)
    whole, share = "NVIDIA L4", share_name("NVIDIA L4", 4)
    finish_job(bench, dataset_id, whole)
    finish_job(bench, dataset_id, share)
    finish_job(bench, dataset_id, share)
    for name, expected in ((whole, 1), (share, 2)):
        worker_id = bench.jobs.register_worker("worker", 1, "here", "cuda:0", device_name=name)
        with read_session(bench.jobs.engine) as session:
            config = TrainingConfig(**SMALL).model_dump(mode="json")
            workers = [session.get(Worker, worker_id)]
            assert len(Estimator().comparable(session, config, workers)) == expected, name
        bench.jobs.deregister_worker(worker_id)


@pytest.mark.parametrize(("device", "most"), [("cuda", 4), ("cpu", 1)])
def test_a_calibration_of_a_share_spans_from_the_device_alone_to_all_jobs_at_once(
    bench: Any, tmp_path: Any, device: str, most: int
) -> None:
    dataset_id, calibrations = reported_dataset(bench), Calibrations(Storage(tmp_path))
    names = {"whole": "NVIDIA L4", "share": share_name("NVIDIA L4", 4)}
    alone = CALIBRATION.model_copy(update={"device": device})
    calibrations.write(names["whole"], alone)
    calibrations.write(names["share"], alone.model_copy(update={"jobs_per_device": 4}))
    found = {}
    for kind, name in names.items():
        worker_id = bench.jobs.register_worker("worker", 1, "here", f"{device}:0", device_name=name)
        with read_session(bench.jobs.engine) as session:
            durations = Durations(calibrations)
            config = TrainingConfig(**SMALL).model_dump(mode="json")
            found[kind] = durations.of_dataset(session, config, dataset_id, [session.get(Worker, worker_id)])
        bench.jobs.deregister_worker(worker_id)
    whole, share = found["whole"].seconds, found["share"].seconds
    assert share.low == pytest.approx(whole.low)
    assert share.likely == pytest.approx((1 + most) / 2 * whole.likely)
    assert share.high == pytest.approx(most * whole.high)
