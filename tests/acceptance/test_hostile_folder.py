"""Whoever starts our programs in a folder of his own gets our programs, whatever that folder holds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("rvc-train")
NAMES = ("server", "worker", "client", "rvc_engine", "uvicorn", "fastapi", "sqlalchemy", "torch", "numpy", "random")
FOUND_BY_CHILDREN_ALONE = ("worker", "uvicorn", "fastapi", "sqlalchemy", "structlog", "torch", "numpy")


@pytest.fixture
def start(station, hostile, tmp_path):
    """`start("up", ...)`: `rvc-train` in a hostile folder, with another one in `PYTHONPATH`; ended with the test."""
    current, listed = tmp_path / "current", tmp_path / "listed"
    executed = [hostile(current, *NAMES), hostile(listed, *FOUND_BY_CHILDREN_ALONE)]
    processes = []

    def start_one(*words: str, **environment: str) -> subprocess.Popen[bytes]:
        with (station.folder / f"{words[0]}.log").open("wb") as log:
            env = station.environment | {"PYTHONPATH": str(listed)} | environment
            processes.append(subprocess.Popen([PROGRAM, *words], env=env, cwd=current, stdout=log, stderr=log))
        return processes[-1]

    yield start_one
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in {0, -signal.SIGTERM}, station.words()
    assert not [path.read_text() for path in executed if path.exists()]


def test_up_runs_our_server_worker_report_and_engine_in_a_folder_that_has_others_of_their_name(
    start, station, recording
):
    start("up", "--port", str(station.port), "--device", "cpu")
    station.wait_until(lambda: station.client.is_ready() and station.client.workers() != [], "server and worker", 60)
    dataset = station.upload(recording)
    assert dataset.status == "ready", dataset
    config = station.small.model_copy(update={"content": "contentvec"})
    job = station.wait_for(station.submit(dataset, config=config), "failed", "succeeded", seconds=60)
    assert job.error is not None
    assert job.error.code == "missing_weights"  # so says our engine


def test_server_and_worker_are_commands_of_their_own_and_run_ours(start, station):
    server = start("server")
    station.wait_until(station.client.is_ready, "the server", 60)
    start("worker", RVC_TRAIN_WORKER_NAME="by itself")
    station.wait_until(lambda: station.client.workers() != [], "the worker", 30)
    assert [worker.name for worker in station.client.workers()] == ["by itself"]
    command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    assert command[:4] == [sys.executable, "-P", "-m", "server"]  # in place of the command, so that signals reach it


@pytest.mark.parametrize("command", ["server", "worker"])
def test_their_help_says_where_settings_come_from(command):
    wide = os.environ | {"COLUMNS": "400"}
    done = subprocess.run([PROGRAM, command, "--help"], env=wide, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Settings come from environment variables that begin with RVC_TRAIN_" in done.stdout


def test_no_program_of_ours_is_started_by_a_bare_python_dash_m():
    """A child that looks in the current folder would run what lies there."""
    root = Path(__file__).parents[2]
    sources = [
        path for package in ("client", "server", "worker", "rvc_engine") for path in (root / package).rglob("*.py")
    ]
    assert len(sources) > 200
    starters = [path.relative_to(root).as_posix() for path in sources if "sys.executable" in path.read_text()]
    assert starters == ["rvc_engine/child_processes.py"]
