"""Workers killed and frozen at random under a short lease: every job ends once, no event is lost or repeated."""

import collections
import hashlib
import random
import signal
import subprocess
import time
from typing import Any

import pytest

STEPS = 6


class Chaos:
    """Some workers that nobody can rely on."""

    def __init__(self, station: Any, num_workers: int, seed: int) -> None:
        self.station = station
        self.random = random.Random(seed)
        self.workers = [station.start_worker() for _ in range(num_workers)]
        self.frozen: dict[subprocess.Popen[bytes], float] = {}
        """Workers that were stopped, and when they may go on."""
        self.counts: collections.Counter[str] = collections.Counter()

    def strike(self) -> None:
        """Kill a worker and start another, or freeze one for longer than its lease."""
        self.thaw()
        position = self.random.randrange(len(self.workers))
        worker = self.workers[position]
        if worker in self.frozen:
            return
        if self.random.random() < 0.5:
            worker.kill()
            worker.wait()
            self.workers[position] = self.station.start_worker()
            self.counts["killed"] += 1
        else:
            worker.send_signal(signal.SIGSTOP)
            self.frozen[worker] = time.monotonic() + self.random.uniform(0.5, 3)
            self.counts["frozen"] += 1

    def thaw(self, *, all_of_them: bool = False) -> None:
        for worker, until in list(self.frozen.items()):
            if all_of_them or time.monotonic() >= until:
                worker.send_signal(signal.SIGCONT)
                del self.frozen[worker]


def run(station: Any, recording: Any, *, num_jobs: int, num_workers: int, seed: int) -> Chaos:
    station.environment |= {
        "RVC_TRAIN_LEASE_SECONDS": "1",
        "RVC_TRAIN_HEARTBEAT_SECONDS": "0.2",
        "RVC_TRAIN_REAPER_SECONDS": "0.1",
        "RVC_TRAIN_MAX_RECOVERIES": "1000",
        "RVC_TRAIN_LOCK_WAIT_SECONDS": "30",
        "RVC_TRAIN_REQUESTS_PER_MINUTE": "1e9",  # each job is looked at closely in the end
    }
    station.follow_script(["train", STEPS, 0.08, 2], *station.MAKE_VOICE)
    station.start_server()
    dataset = station.upload(recording)
    jobs = [station.submit(dataset, name=f"voice {number}", max_attempts=10) for number in range(num_jobs)]
    chaos = Chaos(station, num_workers, seed)
    deadline = time.monotonic() + 120 + 6 * num_jobs
    while any(not job.status.is_terminal for job in station.client.jobs()):
        assert time.monotonic() < deadline, station.words()
        time.sleep(chaos.random.uniform(0.2, 0.8))
        if chaos.counts.total() < 2 * num_jobs:  # where a worker needs seconds to start, endless strikes leave none
            chaos.strike()
        else:
            chaos.thaw()
    chaos.thaw(all_of_them=True)
    for job in jobs:
        check(station, job.id)
    return chaos


def check(station: Any, job_id: str) -> None:
    job = station.client.job(job_id)
    assert job.status == "succeeded", (job.error, station.words())
    events = list(station.client.events(job_id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = collections.Counter(event.type for event in events)
    assert kinds["succeeded"] == 1
    assert events[-1].type == "succeeded"
    assert kinds["started"] == job.attempt
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts), "a worker wrote after its job was given to another"
    assert kinds["worker_lost"] + kinds["retrying"] + kinds["succeeded"] >= job.attempt
    artifacts = station.client.artifacts(job_id)
    assert sorted(each.kind for each in artifacts) == ["index", "voice"]
    for each in artifacts:
        content = station.http.get(each.url).raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == each.sha256
    for series in station.client.metrics(job_id, key="loss/mel").data:  # what a killed worker had not yet told is gone
        assert series.steps == sorted(set(series.steps))
        assert set(series.steps) <= set(range(1, STEPS + 1))
    assert station.steps(job)[-1] == STEPS


def num_turned_away(station: Any) -> int:
    """As the server counted them."""
    line = next(
        line for line in station.http.get("/metrics").text.splitlines() if line.startswith("rvc_train_stale_writes ")
    )
    return int(float(line.split()[1]))


def test_jobs_outlive_workers_that_are_killed_and_frozen(station: Any, recording: Any) -> None:
    chaos = run(station, recording, num_jobs=10, num_workers=3, seed=time.time_ns())
    assert chaos.counts["killed"] + chaos.counts["frozen"] >= 3


def test_jobs_outlive_workers_that_are_killed_and_frozen_on_postgresql(
    station: Any, recording: Any, postgres: Any
) -> None:
    station.environment["RVC_TRAIN_DATABASE_URL"] = postgres.new_database()
    chaos = run(station, recording, num_jobs=2, num_workers=2, seed=time.time_ns())
    assert chaos.counts["killed"] + chaos.counts["frozen"] >= 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_jobs_outlive_workers_that_are_killed_and_frozen_on_postgresql(
    station: Any, recording: Any, postgres: Any
) -> None:
    station.environment["RVC_TRAIN_DATABASE_URL"] = postgres.new_database()
    chaos = run(station, recording, num_jobs=100, num_workers=4, seed=2)
    assert min(chaos.counts["killed"], chaos.counts["frozen"]) >= 20


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_hundreds_of_jobs_outlive_workers_that_are_killed_and_frozen(station: Any, recording: Any) -> None:
    chaos = run(station, recording, num_jobs=300, num_workers=4, seed=1)
    assert min(chaos.counts["killed"], chaos.counts["frozen"]) >= 50
    assert num_turned_away(station) >= 10
