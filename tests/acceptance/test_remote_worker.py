"""A worker with an address and a token, no shared disk and no database: whole jobs, also through the server's death."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rvc_train.schemas.access import Scope, TokenCreate

DATABASE = ("sqlalchemy", "sqlmodel", "psycopg", "alembic", "server.database")


def work_token(station: Any) -> Any:
    return station.client.access.create_token(TokenCreate(owner="machines", scopes=[Scope.WORK]))


def start_remote_worker(station: Any, **settings: str) -> Any:
    """A worker process that has nothing of the server but its address and a token."""
    token = settings.pop("token", None) or work_token(station).secret
    server = station.environment
    station.environment = {
        **{key: value for key, value in server.items() if key not in {"RVC_TRAIN_DATABASE_URL", "RVC_TRAIN_PORT"}},
        "RVC_TRAIN_DATA_FOLDER": str(station.folder / "elsewhere"),
        "RVC_TRAIN_WORKER_SERVER": station.url,
        "RVC_TRAIN_TOKEN": token,
        **settings,
    }
    try:
        return station.start_worker()
    finally:
        station.environment = server


def steps(station: Any, job_id: str) -> list[int]:
    path = station.folder / "elsewhere" / job_id / "workspace" / "steps.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []


def downloaded(station: Any, job_id: str, folder: Path) -> dict[str, str]:
    """The job's files by kind: the sha256 of what a client gets."""
    found = {}
    for artifact in station.client.artifacts(job_id):
        target = station.client.download_artifact(artifact, folder)
        found[artifact.kind] = hashlib.sha256(target.read_bytes()).hexdigest()
    return found


def expected(kind: str, size: int) -> str:
    return hashlib.sha256(hashlib.sha256(kind.encode()).digest() * (size // 32)).hexdigest()


def test_a_worker_elsewhere_runs_two_jobs_at_once(station: Any, recording: Path, tmp_path: Path) -> None:
    station.follow_script(["train", 1, 0.01, 1], ["meet", str(tmp_path / "meeting"), 2], *station.MAKE_VOICE)
    station.start_server()
    dataset = station.upload(recording)
    start_remote_worker(station, RVC_TRAIN_JOBS_PER_DEVICE="2", RVC_TRAIN_DEVICE="cpu")
    jobs = [station.submit(dataset, name=name) for name in ("anna", "berta")]  # each ends only beside the other
    ended = [station.wait_for(job, "succeeded", "failed", seconds=90) for job in jobs]
    assert [job.status for job in ended] == ["succeeded", "succeeded"], station.words()


@pytest.mark.timeout(240)
def test_a_worker_elsewhere_makes_a_voice_while_the_server_is_killed_and_comes_back(
    station: Any, recording: Path, tmp_path: Path
) -> None:
    station.environment["RVC_TRAIN_LEASE_SECONDS"] = "4"
    script = [["train", 60, 0.1, 10], ["preview", 60, "of the end"], *station.MAKE_VOICE]
    station.follow_script(*script)
    server = station.start_server()
    dataset = station.upload(recording)
    start_remote_worker(station, RVC_TRAIN_HEARTBEAT_SECONDS="0.5")
    job = station.submit(dataset)
    station.wait_until(lambda: len(steps(station, job.id)) >= 5, "five steps", 60)
    server.kill()
    server.wait()
    before = len(steps(station, job.id))
    station.wait_until(lambda: len(steps(station, job.id)) >= before + 5, "steps without a server", 60)
    time.sleep(1)
    station.start_server()
    done = station.wait_for(job, "succeeded", "failed", seconds=120)
    assert (done.status, done.attempt) == ("succeeded", 1), station.words()
    events = [event.type for event in station.client.events(job.id)]
    assert [events.count(kind) for kind in ("started", "artifact_published", "preview_ready", "succeeded")] == [
        1,
        2,
        1,
        1,
    ]
    (mel,) = station.client.metrics(job.id, key=["loss/mel"]).data
    assert mel.steps == list(range(1, 61))
    assert downloaded(station, job.id, tmp_path) == {
        "voice": expected("voice", 64_000),
        "index": expected("index", 3200),
    }
    log = station.client.logs(job.id)
    assert log.count("attempt 1 of the job") == 1
    station.wait_until(lambda: not (station.folder / "elsewhere" / job.id).exists(), "the end of the job's files", 30)


def test_a_claim_over_http_imports_no_library_of_the_database(station: Any, recording: Path) -> None:
    station.follow_script(*station.MAKE_VOICE)
    station.start_server()
    job = station.submit(station.upload(recording))
    token = station.client.access.create_token(TokenCreate(owner="machines", scopes=[Scope.WORK])).secret
    environment = station.environment | {
        "RVC_TRAIN_DATA_FOLDER": str(station.folder / "elsewhere"),
        "RVC_TRAIN_WORKER_SERVER": station.url,
        "RVC_TRAIN_TOKEN": token,
        "RVC_TRAIN_WORKER_MAX_JOBS": "1",
    }
    program = (
        f"import sys; from worker.__main__ import main; main(); print(sorted(set({DATABASE!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
    assert station.client.job(job.id).status == "succeeded", done.stderr


def test_a_worker_whose_token_is_refused_says_what_to_do_and_ends(station: Any) -> None:
    station.start_server()
    environment = station.environment | {"RVC_TRAIN_WORKER_SERVER": station.url, "RVC_TRAIN_TOKEN": "rvct_nothing"}
    environment["RVC_TRAIN_DATA_FOLDER"] = str(station.folder / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--scope work" in done.stderr


def test_a_worker_whose_token_is_revoked_in_mid_training_says_so_once_and_ends_and_another_goes_on(
    station: Any, recording: Path
) -> None:
    station.environment["RVC_TRAIN_LEASE_SECONDS"] = "4"
    station.follow_script(["train", 40, 0.5, 5], *station.MAKE_VOICE)
    station.start_server()
    token = work_token(station)
    worker = start_remote_worker(station, token=token.secret, RVC_TRAIN_HEARTBEAT_SECONDS="0.3")
    job = station.submit(station.upload(recording))
    station.wait_until(lambda: len(steps(station, job.id)) > 5, "six steps", 60)
    station.client.access.revoke_token(token.id)
    assert worker.wait(30) == 2
    (log,) = station.folder.glob("worker*.log")
    assert log.read_text().count("the server accepts no more heartbeats") <= 1
    assert "does not let this worker in" in log.read_text()
    assert "Traceback" not in log.read_text()
    start_remote_worker(station)
    ended = station.wait_for(job, "succeeded", "failed", seconds=90)
    assert (ended.status, ended.attempt) == ("succeeded", 2), station.words()
    assert steps(station, job.id)[-1] == 40


@pytest.mark.long
@pytest.mark.timeout(900)  # a training on a CPU, and a conversion
def test_the_real_engine_makes_a_voice_elsewhere_and_converts_with_it(station: Any, tmp_path: Path) -> None:
    sample = station.samples / "confbridge-pin-bad.flac"
    station.start_server()
    start_remote_worker(station)
    dataset = station.upload(sample, name="anna")
    small = {"width": 24, "content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "batch_size": 4}
    job = station.submit(dataset, name="anna", config=small | {"total_epochs": 1, "evaluate": "never"})
    assert station.wait_for(job, "succeeded", "failed", seconds=700).status == "succeeded", station.words()
    assert {"voice", "index"} <= downloaded(station, job.id, tmp_path / "files").keys()
    done = station.cli("convert", str(sample), str(tmp_path / "out.flac"), "--voice", "anna", "--pitch", "dio")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.flac").stat().st_size > 1000
    station.wait_until(lambda: not list((station.folder / "elsewhere" / "conversions").iterdir()), "no file left", 30)
