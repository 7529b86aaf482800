"""Two servers on one PostgreSQL and one data folder: both serve, one leads, and the other one when it is killed."""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEADS = "this server leads"
FAKE_REPORT = Path(__file__).parents[1] / "server" / "fake_report.py"


def test_when_the_leading_server_is_killed_the_other_one_takes_over_everything(
    open_station: Callable[..., Any], postgres: Any, recording: Path, tmp_path: Path
) -> None:
    url = postgres.new_database()
    first, second = stations = [open_station(tmp_path) for _ in range(2)]
    try:
        for station in stations:
            station.environment["RVC_TRAIN_DATABASE_URL"] = url
            station.environment["RVC_TRAIN_REPORT_COMMAND"] = json.dumps([sys.executable, str(FAKE_REPORT)])
        first.follow_script(["train", 100, 0.1, 2], *first.MAKE_VOICE)
        leader = first.start_server()
        log = tmp_path / "server.log"
        first.wait_until(lambda: LEADS in log.read_text(), "a leading server")
        second.start_server()

        dataset = second.upload(recording)  # received by the follower, validated by the leader
        assert dataset.status == "ready"
        worker = first.start_worker()
        job = first.submit(dataset)
        seen: list[int] = []
        follower = threading.Thread(
            target=lambda: seen.extend(event.seq for event in second.client.follow_events(job.id))
        )
        follower.start()
        first.wait_until(lambda: len(first.steps(job)) > 2, "some steps")
        assert log.read_text().count(LEADS) == 1

        for process in (leader, worker):
            process.kill()
            process.wait()
        second.wait_for(job, "queued")  # the worker is found lost by the one that leads now
        assert log.read_text().count(LEADS) == 2
        assert second.upload(recording, name="another").status == "ready"
        first.follow_script(["train", 3, 0.05, 2], *first.MAKE_VOICE)
        first.start_worker()
        second.wait_for(job, "succeeded")
        follower.join(30)
        assert seen == list(range(1, len(seen) + 1))
        assert seen[-1] == second.client.job(job.id).last_event_seq
    finally:
        for station in stations:
            station.close()
