"""Outcome of a job, by the behaviour of its engine."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from server.admin.cli import app
from tests.systems import IS_WINDOWS, signals


def test_a_run_that_goes_well_ends_as_succeeded_with_both_files_published(shop):
    job_id = shop.submit([["train", 3, 0.01, 1], *shop.MAKE_VOICE])
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert job.status == "succeeded"
    assert job.progress == 1.0
    assert job.losses == {"loss/mel": 20.0}
    assert {artifact.name for artifact in shop.artifacts(job_id)} == {"anna.pth", "anna.index"}
    for artifact in shop.artifacts(job_id):
        assert shop.storage.resolve(artifact.path).stat().st_size == artifact.size


def test_the_engine_gets_its_options_and_quiet_threads_and_no_secrets(shop, monkeypatch):
    secrets = ("RVC_TRAIN_TOKEN", "RVC_TRAIN_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HF_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "sqlite:////a secret of the server")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy:3128")
    job_id = shop.submit([["report_environment"], *shop.MAKE_VOICE], name="Анна d'or, trained")
    with shop.worker(device="cpu", engines_per_machine=1, content_folder=Path("/hubert"), engine_environment="LD_PRE*"):
        shop.wait_for(job_id, "succeeded", "failed")
    reported = json.loads(shop.log(job_id).split("environment: ")[1].splitlines()[0])
    assert reported["voice"] == "Анна d'or, trained"
    environment = {name.upper(): value for name, value in reported["environment"].items()}  # Windows ignores case
    assert not [name for name in environment if name in secrets]
    assert not [value for value in environment.values() if "secret" in value]
    assert (environment["NCCL_DEBUG"], environment["LD_PRELOAD"]) == ("INFO", "")
    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["OMP_NUM_THREADS"] == str(os.cpu_count()) == str(reported["threads"])
    assert reported["group_is_own"]
    assert reported["config"]["width"] == 24
    assert reported["dataset"] == str(shop.storage.dataset_folder(shop.dataset_id))
    assert reported["device"] == "cpu"
    assert reported["content_folder"] == str(Path("/hubert"))


def test_success_without_an_index_is_a_failure(shop):
    job_id = shop.submit([["artifact", "voice", 64], ["succeed"]])
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.error_code) == ("failed", "artifact_invalid")
    assert "no index" in job.error_message


def test_a_jobs_progress_is_readable_while_the_server_is_down(shop, monkeypatch):
    monkeypatch.setenv("RVC_TRAIN_DATA_FOLDER", str(shop.folder))
    job_id = shop.submit([["train", 100_000, 0.01, 1000], *shop.MAKE_VOICE])

    def step():
        (shown,) = json.loads(CliRunner().invoke(app, ["jobs", job_id, "--json"]).stdout)
        return shown["step"] or 0

    environment = os.environ | {"RVC_TRAIN_PORT": "0"}
    server = subprocess.Popen([sys.executable, "-m", "server"], env=environment, stderr=subprocess.PIPE, text=True)
    with shop.worker():
        try:
            next(line for line in server.stderr if "the server is ready" in line)
            shop.wait_until(lambda: step() > 0, "its first step")
        finally:
            server.kill()
            server.communicate()
        when_killed = step()
        shop.wait_until(lambda: step() > when_killed, "progress without a server")
        assert f"{job_id}  anna  running  train" in CliRunner().invoke(app, ["jobs"]).stdout


@pytest.mark.parametrize("lie", [["lying_artifact", "voice"], ["foreign_artifact", "voice", __file__]])
def test_a_file_that_is_not_what_the_engine_said_is_never_published(shop, lie):
    job_id = shop.submit([lie, ["artifact", "index", 64], ["succeed"]])
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.error_code) == ("failed", "artifact_invalid")
    assert [artifact.kind for artifact in shop.artifacts(job_id)] == ["index"]


def test_the_engines_own_failure_keeps_its_code_and_sentence(shop):
    job_id = shop.submit([["fail", "missing_weights", "fetch the weights, import them, or choose another encoder"]])
    with shop.worker():
        job = shop.wait_for(job_id, "failed")
    assert job.error_code == "missing_weights"
    assert job.error_message == "fetch the weights, import them, or choose another encoder"
    assert job.claims == 1


def test_a_crash_is_told_with_its_signal_and_the_engines_last_words(shop):
    job_id = shop.submit(
        [["noise", "CUDA error: an illegal memory access"], ["die", 0xC0000005 if IS_WINDOWS else 11]], max_attempts=1
    )
    with shop.worker():
        job = shop.wait_for(job_id, "failed")
    assert job.error_code == "engine_crashed"
    assert ("access violation" if IS_WINDOWS else "SIGSEGV") in job.error_message
    assert "an illegal memory access" in job.error_message
    assert "an illegal memory access" in shop.log(job_id)


def test_exit_code_0_without_a_last_event_is_a_crash_and_no_success(shop):
    job_id = shop.submit([["artifact", "voice", 64], ["artifact", "index", 64], ["exit", 0]], max_attempts=1)
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.error_code) == ("failed", "engine_crashed")


def test_options_that_the_engine_does_not_know_are_a_mistake_of_ours(shop):
    job_id = shop.submit([])
    with shop.worker(
        engine_command=[sys.executable, "-c", "import sys; print('no --cache', file=sys.stderr); sys.exit(2)"]
    ):
        job = shop.wait_for(job_id, "failed")
    assert job.error_code == "internal"
    assert "no --cache" in job.error_message


def test_an_engine_that_cannot_be_started_fails_the_job_with_the_reason(shop):
    job_id = shop.submit([])
    with shop.worker(engine_command=["/no/such/program"]):
        job = shop.wait_for(job_id, "failed")
    assert job.error_code == "internal"
    assert "/no/such/program" in job.error_message


def test_a_crash_is_tried_again_and_goes_on_from_the_checkpoint(shop):
    job_id = shop.submit([["train", 4, 0.01, 1], ["crash_once"], ["train", 6, 0.01, 1], *shop.MAKE_VOICE])
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.claims, job.failures) == ("succeeded", 2, 1)
    assert shop.steps(job_id) == [1, 2, 3, 4, 5, 6]
    assert "retrying" in shop.event_types(job_id)


def test_cancel_stops_the_engine_within_a_step_and_keeps_its_checkpoint(shop):
    job_id = shop.submit([["train", 1000, 0.05, 1000]])
    with shop.worker():
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        shop.jobs.cancel(job_id)
        job = shop.wait_for(job_id, "cancelled", seconds=5)
    saved = json.loads((shop.storage.workspace(job_id) / "checkpoint.json").read_text())
    assert saved["step"] == len(shop.steps(job_id))
    assert job.failures == 0


def test_pause_and_resume_lose_no_step(shop):
    job_id = shop.submit([["train", 12, 0.05, 1000], *shop.MAKE_VOICE])
    with shop.worker():
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        shop.jobs.pause(job_id)
        shop.wait_for(job_id, "paused", seconds=5)
        shop.jobs.resume(job_id)
        shop.wait_for(job_id, "succeeded", seconds=10)
    assert shop.steps(job_id) == list(range(1, 13))


def test_an_engine_that_ignores_the_wish_to_stop_is_killed_with_its_group(shop):
    job_id = shop.submit([["log", "deaf"], ["hang"]])
    with shop.worker(stop_seconds=0.5):
        shop.wait_until(lambda: "deaf" in shop.log(job_id), "the engine")
        pid = shop.engine_pid(job_id)
        shop.jobs.cancel(job_id)
        shop.wait_for(job_id, "cancelled", seconds=5)
    assert not psutil.pid_exists(pid)


def test_a_voice_that_is_ready_wins_over_a_cancel_that_came_too_late(shop):
    job_id = shop.submit([["log", "nearly"], ["ignore_stop"], ["sleep", 0.5], *shop.MAKE_VOICE])
    with shop.worker():
        shop.wait_until(lambda: "nearly" in shop.log(job_id), "the engine")
        shop.jobs.cancel(job_id)
        job = shop.wait_for(job_id, "succeeded", "cancelled")
    assert job.status == "succeeded"


def test_an_attempt_over_its_time_is_stopped_and_fails_for_good(shop):
    job_id = shop.submit([["train", 1000, 0.05, 1000]], max_duration_seconds=1)
    with shop.worker():
        job = shop.wait_for(job_id, "failed")
    assert (job.error_code, job.claims) == ("max_duration_exceeded", 1)


def test_an_engine_that_falls_silent_is_stopped_as_hung(shop):
    job_id = shop.submit([["log", "one word"], ["hang"]], max_attempts=1)
    with shop.worker(silence_seconds=0.5, stop_seconds=0.3):
        job = shop.wait_for(job_id, "failed")
    assert job.error_code == "no_progress"


def test_a_stopping_worker_hands_the_job_back_and_the_next_one_goes_on(shop):
    job_id = shop.submit([["train", 12, 0.05, 1000], *shop.MAKE_VOICE])
    with shop.worker():
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 3, "three steps")
    job = shop.job(job_id)
    assert (job.status, job.failures) == ("queued", 0)
    with shop.worker():
        shop.wait_for(job_id, "succeeded")
    assert shop.steps(job_id) == list(range(1, 13))


def test_a_worker_that_lost_its_job_stops_its_engine_and_writes_nothing_more(shop):
    job_id = shop.submit([["train", 1000, 0.05, 1000]])
    with shop.worker() as stop:
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        pid = shop.engine_pid(job_id)
        shop.jobs.force_fail(job_id, "an administrator ended it")
        shop.wait_until(lambda: not psutil.pid_exists(pid), "the engine's end")
        last = shop.job(job_id).last_seq
        stop.set()
    assert shop.job(job_id).last_seq == last
    assert shop.job(job_id).status == "failed"


def test_an_engine_left_behind_by_a_lost_worker_is_ended_before_the_next_one_starts(shop):
    job_id = shop.submit([["train", 10, 0.05, 2], *shop.MAKE_VOICE])
    with abandoned_engine(shop, job_id) as old:
        with shop.worker():
            job = shop.wait_for(job_id, "succeeded", "failed")
        assert old.wait(5) is not None
    assert job.status == "succeeded"
    assert sorted(set(shop.steps(job_id))) == list(range(1, 11))
    assert "earlier attempt still ran" in shop.log(job_id)


class abandoned_engine:  # noqa: N801 - reads as a word of the test
    """A claim whose worker is gone, and its engine, which still trains with its input open."""

    def __init__(self, shop, job_id: str) -> None:
        self.shop, self.job_id = shop, job_id

    def __enter__(self) -> subprocess.Popen:
        shop, job_service = self.shop, self.shop.jobs
        worker = job_service.register_worker("gone", 1, socket.gethostname(), "cpu")
        lease = job_service.claim(worker)
        config = shop.folder / "config.json"
        config.write_text(lease.config.model_dump_json())
        command = [
            *shop.settings().engine_command,
            f"--workspace={shop.storage.workspace(self.job_id)}",
            *("--dataset=x", "--voice=anna", f"--config={config}", "--device=cpu", "--weights=x", "--cache=x"),
            *("--threads=1", "--lock-wait=0", "--events"),
        ]
        self.engine = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        job_service.record_engine_process(lease, self.engine.pid, psutil.Process(self.engine.pid).create_time())
        shop.wait_until(lambda: len(shop.steps(self.job_id)) >= 1, "the old engine's first step")
        held = job_service.active_leases()[0]
        job_service.requeue_lost(held)
        return self.engine

    def __exit__(self, *error: object) -> None:
        self.engine.kill()
        self.engine.communicate()


def test_a_flood_of_lines_and_noise_never_holds_the_engine_up(shop):
    job_id = shop.submit([["flood", 20_000], ["noise", "x" * 200_000], *shop.MAKE_VOICE])
    with shop.worker():
        shop.wait_for(job_id, "succeeded", seconds=30)
    assert "line 19999" in shop.log(job_id)


def test_reports_wait_for_a_database_that_is_away_while_the_engine_goes_on(shop):
    job_id = shop.submit([["train", 20, 0.02, 5], *shop.MAKE_VOICE])
    shop.be_impatient()
    with shop.worker():
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        with locked_database(shop):
            shop.wait_until(lambda: len(shop.steps(job_id)) == 20, "all steps, without the database")
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert job.status == "succeeded"
    steps = [event.data["step"] for event in shop.events(job_id) if event.type == "metric"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20


class locked_database:  # noqa: N801 - reads as a word of the test
    """Lock of another connection on the database."""

    def __init__(self, shop) -> None:
        self.shop = shop

    def __enter__(self) -> None:
        self.connection = self.shop.engine.raw_connection()
        self.connection.execute("PRAGMA busy_timeout=20000")  # unlike that of an impatient worker
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *error: object) -> None:
        self.connection.execute("ROLLBACK")
        self.connection.close()


@signals
def test_python_dash_m_worker_drains_on_sigterm_and_exits_0(shop):
    job_id = shop.submit([["train", 1000, 0.05, 1000]])
    environment = os.environ | {
        "RVC_TRAIN_DATA_FOLDER": str(shop.folder),
        "RVC_TRAIN_ENGINE_COMMAND": json.dumps(shop.settings().engine_command),
        "RVC_TRAIN_POLL_SECONDS": "0.05",
        "RVC_TRAIN_WORKER_NAME": "der Arbeiter",
    }
    worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        worker.send_signal(signal.SIGTERM)
        _, output = worker.communicate(timeout=15)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0, output
    assert shop.job(job_id).status == "queued"
    assert "worker stopped" in output


def test_a_worker_killed_with_kill_9_leaves_no_engine_behind(shop):
    job_id = shop.submit([["train", 1000, 0.05, 1000]])
    environment = os.environ | {
        "RVC_TRAIN_DATA_FOLDER": str(shop.folder),
        "RVC_TRAIN_ENGINE_COMMAND": json.dumps(shop.settings().engine_command),
        "RVC_TRAIN_POLL_SECONDS": "0.05",
    }
    worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stderr=subprocess.DEVNULL)
    try:
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        pid = shop.engine_pid(job_id)
    finally:
        worker.kill()
        worker.wait()
    shop.wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "the engine's end")
    if not IS_WINDOWS:  # where it ends with its last checkpoint, at once
        saved = json.loads((shop.storage.workspace(job_id) / "checkpoint.json").read_text())
        assert saved["step"] == len(shop.steps(job_id))


def test_wrong_settings_are_told_and_end_with_exit_code_2():
    environment = os.environ | {"RVC_TRAIN_DEVICE": "the big one"}
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=environment, capture_output=True, text=True, cwd=Path.cwd(), check=False
    )
    assert done.returncode == 2
    assert "device" in done.stderr
    assert "Traceback" not in done.stderr
