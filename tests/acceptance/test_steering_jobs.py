"""Jobs steered from outside while they run: with the real engine, with several workers, from the command line."""

import json
import os
import time
from pathlib import Path

import pytest

from rvc_engine.checkpoints.manifest import read_entries
from rvc_train.schemas.queue import EstimateRequest

SECONDS_TO_END = 15


def has_trained(station, job, steps: int) -> bool:
    return (station.client.job(job.id).step or 0) >= steps


def seconds_until(station, job, status: str) -> float:
    started = time.monotonic()
    station.wait_for(job, status, seconds=60)
    return time.monotonic() - started


# Each day test_process.py stops the real engine, and test_running_jobs.py pauses and cancels by a worker.
@pytest.mark.long
def test_pause_and_cancel_end_the_real_engine_within_15_s_and_keep_its_checkpoint(station):
    recordings = sorted(station.samples.glob("*.flac"))[:1]
    config = station.small.model_copy(update={"total_epochs": 10_000, "evaluate": "never", "batch_size": 2})
    station.start_server()
    station.start_worker()
    job = station.submit(station.upload(*recordings, name="one"), config=config)
    station.wait_until(lambda: has_trained(station, job, 2), "two steps", 120)
    station.client.pause(job.id)
    assert seconds_until(station, job, "paused") < SECONDS_TO_END
    workspace = station.folder / "data" / "jobs" / job.id / "workspace"
    paused_at = read_entries(workspace / "recovery")[-1].step
    assert paused_at == station.client.job(job.id).step
    station.client.resume(job.id)
    station.wait_until(lambda: has_trained(station, job, paused_at + 2), "two further steps", 120)
    station.client.cancel(job.id)
    assert seconds_until(station, job, "cancelled") < SECONDS_TO_END
    (entry,) = read_entries(workspace / "recovery")[-1:]
    assert entry.fault(workspace / "recovery") is None
    assert entry.step > paused_at
    assert f"resuming after step {paused_at}" in station.client.logs(job.id)


def test_a_lost_workers_job_runs_again_within_its_lease_and_a_little(station, recording):
    """With a lease of 2 s and sweeps every 0.2 s; the server's tests play through the defaults, 60 s and 5 s."""
    station.follow_script(["train", 200, 0.1, 5])
    station.start_server()
    first = station.start_worker()
    job = station.submit(station.upload(recording))
    station.wait_until(lambda: len(station.steps(job)) >= 2, "two steps")
    station.start_worker()
    first.kill()
    first.wait()
    started = time.monotonic()
    station.wait_until(lambda: station.client.job(job.id).attempt == 2, "the second attempt", 20)
    assert time.monotonic() - started < 2 + 2 * 0.2 + 0.3 + 5  # the last for a busy machine
    station.client.cancel(job.id)
    station.wait_for(job, "cancelled")


@pytest.fixture(scope="module")
def lasting_jobs(lasting_station):
    lasting_station.start_server()
    return lasting_station


def test_the_command_line_steers_jobs_and_workers(lasting_jobs, recording):
    station = lasting_jobs
    station.follow_script(["train", 1000, 0.05, 1000])
    dataset = station.upload(recording, name="mine")
    first, second = station.submit(dataset, labels={"team": "x"}), station.submit(dataset, name="bella")

    def said(*words: str, code: int = 0) -> str:
        done = station.cli(*words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "takes" in said("estimate", "mine", "--width", "24", "--pretrained", "none", "--content", "whisper-tiny")
    assert "paused" in said("pause", second.id)
    assert "queued" in said("resume", second.id)
    assert "place 1" in said("priority", second.id, "5")
    assert "team=x  mood=good" in said("label", first.id, "mood=good")
    assert "bella" not in said("jobs", "--label", "mood=good")
    assert "anna" not in said("jobs", "--name", "bella")
    station.start_worker()
    station.wait_until(lambda: station.client.job(second.id).status == "running", "a running job")
    text = said("queue")
    assert text.index(second.id) < text.index(first.id)
    workers = json.loads(said("workers", "--json"))
    (worker,) = workers
    assert (worker["status"], worker["job_id"], bool(worker["device_name"])) == ("busy", second.id, True)
    assert "draining" in said("drain", worker["id"])
    station.wait_until(lambda: station.client.workers()[0].status == "stopped", "the worker's end")
    assert station.client.job(second.id).status == "queued"
    assert "stopped already" in said("drain", worker["id"], code=2)
    said("cancel", second.id)
    again = json.loads(said("retry", second.id, "--json"))
    assert (again["retry_of"], again["retry_from"]) == (second.id, "checkpoint")  # the drain left one
    assert "cannot change" in said("retry", second.id, "--seed", "7", code=1)
    retried = json.loads(said("retry", second.id, "--from-start", "--total-epochs", "3", "--json"))
    assert (retried["retry_of"], retried["config"]["total_epochs"]) == (second.id, 3)
    assert "there is no job" in said("pause", "ffff", code=2)
    for job in (first.id, again["id"], retried["id"]):
        said("cancel", job)


def test_the_client_asks_again_only_for_what_has_changed(lasting_jobs, recording):
    station = lasting_jobs
    job = station.submit(station.upload(recording, name="mine"))
    seen, etag = station.client.job_if_changed(job.id)
    assert seen is not None
    assert station.client.job_if_changed(job.id, etag) == (None, etag)
    station.client.edit(job.id, labels={"a": "b"}, if_match=etag)
    changed, other = station.client.job_if_changed(job.id, etag)
    assert changed is not None
    assert (changed.labels, other == etag) == ({"a": "b"}, False)
    assert [each.id for each in station.client.jobs(labels={"a": "b"})] == [job.id]
    assert station.client.find_job(job.id[4:30]).id == job.id
    request = EstimateRequest(dataset_id=job.dataset_id, config=station.small)
    assert station.client.estimate(request).speech_seconds
    station.client.cancel(job.id)


def test_up_starts_a_worker_for_each_device_and_does_not_bring_a_drained_one_back(tmp_path: Path):
    from rvc_train.cli.services import Services, free_port

    said: list[tuple[str, str]] = []
    services = Services(
        data_folder=tmp_path,
        port=free_port(),
        devices=("cpu", "cpu"),
        environment=os.environ | {"RVC_TRAIN_HEARTBEAT_SECONDS": "0.3", "RVC_TRAIN_POLL_SECONDS": "0.1"},
        relay=lambda name, line: said.append((name, line)),
    )
    with services:
        from rvc_train.client import Client, connect

        with connect(services.url) as http:
            client = Client(http)
            wait_for(lambda: len(client.workers()) == 2)
            client.drain_worker(client.workers()[0].id)
            wait_for(lambda: [worker.status for worker in client.workers()].count("stopped") == 1)
            wait_for(lambda: any(service.process.poll() == 0 for service in services.services))
            services.watch_once()
            assert any("ended on request" in line for _, line in said)
            assert len(client.workers()) == 2


def wait_for(is_so, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
