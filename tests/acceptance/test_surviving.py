"""Processes die; jobs and those who watch them do not."""

import threading

import pytest

from rvc_engine.events import STAGES


def test_a_job_whose_worker_is_killed_goes_on_from_its_checkpoint_with_the_next_worker(station, recording):
    station.follow_script(["train", 30, 0.1, 5], *station.MAKE_VOICE)
    station.start_server()
    worker = station.start_worker()
    job = station.submit(station.upload(recording))
    station.wait_until(lambda: len(station.steps(job)) >= 8, "eight steps")
    worker.kill()
    worker.wait()
    station.start_worker()
    job = station.wait_for(job, "succeeded", "failed", seconds=40)
    assert job.status == "succeeded", job.error
    assert job.attempt == 2
    # The orphan saved where it stood when its input closed, so not a single step was done twice.
    assert station.steps(job) == list(range(1, 31))
    types = [event.type for event in station.client.events(job.id)]
    assert types.count("worker_lost") == 1
    assert types.count("succeeded") == 1


def test_a_worker_goes_on_without_its_server_and_a_watcher_loses_and_repeats_nothing(station, recording):
    station.follow_script(["train", 40, 0.1, 5], *station.MAKE_VOICE)
    server = station.start_server()
    station.start_worker()
    job = station.submit(station.upload(recording))
    seen = []
    told = []

    def watch() -> None:
        seen.extend(station.client.follow_events(job.id, on_wait=told.append, reconnect_seconds=60))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    station.wait_until(lambda: len(station.steps(job)) >= 5, "five steps")
    server.kill()
    server.wait()
    station.wait_until(lambda: len(station.steps(job)) >= 20, "twenty steps, without a server")
    station.start_server()
    station.wait_for(job, "succeeded")
    watcher.join(20)
    assert not watcher.is_alive()
    assert told, "the watcher noticed"
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert seen == list(station.client.events(job.id))
    assert seen[-1].type == "succeeded"
    assert station.client.job(job.id).attempt == 1


def test_a_worker_that_is_asked_to_stop_hands_its_job_on_and_nothing_is_done_twice(station, recording):
    station.follow_script(["train", 30, 0.1, 1000], *station.MAKE_VOICE)
    station.start_server()
    first = station.start_worker()
    job = station.submit(station.upload(recording))
    station.wait_until(lambda: len(station.steps(job)) >= 5, "five steps")
    first.terminate()
    assert first.wait(20) == 0
    assert station.client.job(job.id).status == "queued"
    station.start_worker()
    job = station.wait_for(job, "succeeded", "failed")
    assert job.status == "succeeded"
    assert station.steps(job) == list(range(1, 31))


@pytest.mark.long  # each day the real engine survives it in test_upgrading.py
def test_the_real_engine_survives_kill_9_of_its_worker(station, tmp_path):
    recordings = sorted(station.samples.glob("*.flac"))[:6]
    config = station.small.model_copy(update={"total_epochs": 5, "checkpoint_every_steps": 2})
    station.start_server()
    worker = station.start_worker()
    job = station.submit(station.upload(*recordings, name="six"), config=config)

    def has_checkpoint() -> bool:
        return "checkpoint_saved" in [event.type for event in station.client.events(job.id)]

    station.wait_until(has_checkpoint, "a checkpoint", 120)
    worker.kill()
    worker.wait()
    station.start_worker()
    job = station.wait_for(job, "succeeded", "failed", seconds=150)
    assert job.status == "succeeded", (job.error, station.client.logs(job.id, tail=30))
    assert job.attempt == 2
    assert {file.name for file in station.client.artifacts(job.id)} >= {"anna.pth", "anna.index"}
    for file in station.client.artifacts(job.id):
        station.client.download_artifact(file, tmp_path / "out")
    stages = [event.data["stage"] for event in station.client.events(job.id) if event.type == "stage_changed"]
    assert set(stages) == set(STAGES)
