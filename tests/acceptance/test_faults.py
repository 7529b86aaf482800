"""What goes wrong around the service: locks, clocks, kills in the worst moment. Nothing is lost, all of it recovers."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

STEPS = 40


def database(station: Any) -> Path:
    return station.folder / "data" / "rvc-train.db"


def hold_the_lock(station: Any, seconds: float) -> None:
    """Somebody else writes for so long."""
    with closing(sqlite3.connect(database(station), isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def check_nothing_lost(station: Any, job: Any, steps: int = STEPS) -> None:
    job = station.wait_for(job, "succeeded", "failed", seconds=60)
    assert job.status == "succeeded", (job.error, station.words())
    assert sorted(set(station.steps(job))) == list(range(1, steps + 1))
    events = list(station.client.events(job.id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("succeeded") == 1


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, id="a few seconds"),
        pytest.param(60, id="a minute", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_a_job_goes_on_while_the_database_is_locked(station: Any, recording: Path, seconds: float) -> None:
    station.follow_script(["train", STEPS, 0.1, 5], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    job = station.submit(station.upload(recording))
    station.wait_until(lambda: len(station.steps(job)) >= 3, "three steps")
    before = len(station.steps(job))
    hold_the_lock(station, seconds)
    assert len(station.steps(job)) > before + 10, "the engine waited for the database"
    check_nothing_lost(station, job)


def test_requests_while_the_database_is_locked_wait_or_are_told_and_nothing_is_done_twice(
    station: Any, recording: Path
) -> None:
    station.follow_script(["train", 3, 0.05, 5], *station.MAKE_VOICE)
    station.start_server()
    dataset = station.upload(recording)
    locker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
            "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); time.sleep(3)",
            str(database(station)),
        ],
        stdout=subprocess.PIPE,
    )
    assert locker.stdout is not None
    locker.stdout.readline()
    started = time.monotonic()
    assert len(list(station.client.jobs())) == 0  # readers wait for nobody
    assert time.monotonic() - started < 1.5
    job = station.submit(dataset)
    locker.wait()
    locker.stdout.close()
    assert [each.id for each in station.client.jobs()] == [job.id]


def test_a_worker_killed_while_it_publishes_a_file_leaves_no_half_and_the_next_one_publishes_it(
    station: Any, recording: Path
) -> None:
    station.follow_script(["train", 3, 0.05, 1], ["artifact", "voice", 400_000_000], *station.MAKE_VOICE[1:])
    station.start_server()
    worker = station.start_worker()
    job = station.submit(station.upload(recording))
    home = station.folder / "data" / "jobs" / job.id
    station.wait_until(lambda: any(home.glob("attempts/*/artifacts/.*.tmp")), "a file half published", 30)
    worker.kill()
    worker.wait()
    station.start_worker()
    check_nothing_lost(station, job, steps=3)
    assert not list(home.glob("attempts/**/.*.tmp"))
    voice = next(each for each in station.client.artifacts(job.id) if each.kind == "voice")
    (stored,) = home.glob(f"attempts/*/artifacts/{voice.sha256}")
    assert stored.stat().st_size == voice.size == 400_000_000


def test_a_server_killed_in_the_middle_of_an_upload_loses_neither_the_upload_nor_the_client(
    station: Any, tmp_path: Path
) -> None:
    station.start_server().kill()
    recording = tmp_path / "long.wav"
    with recording.open("wb") as file:
        file.write(b"RIFF")
        file.truncate(200_000_000)
    server = station.start_server()
    client = subprocess.Popen(
        [sys.executable, "-m", "rvc_train.cli.main", "dataset", "upload", str(recording), "--json"],
        env=station.environment | {"RVC_TRAIN_SERVER": station.url, "XDG_CACHE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    uploads = station.folder / "data" / "uploads"
    station.wait_until(
        lambda: any(path.stat().st_size > 2_000_000 for path in uploads.glob("upl_*")), "part of the upload", 30
    )
    server.kill()
    server.wait()
    station.start_server()
    said, faults = client.communicate(timeout=90)
    assert client.returncode == 0, faults
    assert '"size": 200000000' in said
    station.wait_until(lambda: not list(uploads.glob("upl_*")), "the ingestion", 60)


def test_a_client_killed_in_the_middle_of_an_upload_goes_on_when_it_is_run_again(station: Any, tmp_path: Path) -> None:
    station.start_server()
    recording = tmp_path / "long.wav"
    recording.write_bytes(b"RIFF" + os.urandom(120_000_000))
    environment = station.environment | {"RVC_TRAIN_SERVER": station.url, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "rvc_train.cli.main", "dataset", "upload", str(recording), "--json"]
    first = subprocess.Popen(
        command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    uploads = station.folder / "data" / "uploads"
    station.wait_until(lambda: any(each.stat().st_size > 2_000_000 for each in uploads.glob("upl_*")), "a part", 30)
    first.kill()
    first.wait()
    names = [path.name for path in uploads.glob("upl_*")]
    again = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=90, check=False
    )
    assert again.returncode == 0, again.stderr
    begun = (station.folder / "server.log").read_text().count('"path": "/v1/uploads", "status": 201')
    assert (len(names), begun) == (1, 1), "it went on with what was there"
