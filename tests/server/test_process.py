"""`python -m server` as its user starts it: a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import psutil
import pytest
import uvicorn

from server.__main__ import Server
from server.errors import SettingsRefused
from server.storage.local import Storage
from tests.programs import run_program
from tests.systems import signals


@signals
def test_an_idle_server_takes_less_than_155_mb_and_sigterm_ends_it_cleanly(started, tmp_path, authorized):
    child, url = started(is_measured=True)
    for path in ("/v1/jobs", "/v1/datasets", "/v1/queue", "/v1/workers", "/v1/system", "/openapi.json"):
        assert httpx.get(url + path, headers=authorized).status_code == 200
    assert psutil.Process(child.pid).memory_info().rss < 155_000_000
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    assert lines[-1]["event"].startswith("Finished server process")
    assert any(line.get("path") == "/v1/jobs" and line["request_id"] for line in lines)
    assert not [line for line in lines if line["level"] in {"error", "critical"}]


@signals
def test_sigterm_does_not_wait_for_followers(started, tmp_path, authorized):
    child, url = started()
    dataset = httpx.put(f"{url}/v1/datasets/a/content", content=b"RIFF", headers=authorized).json()
    job = httpx.post(f"{url}/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=authorized)
    events = f"{url}{job.headers['location']}/events"
    with httpx.stream("GET", events, headers=authorized | {"Accept": "text/event-stream"}, timeout=10) as stream:
        lines = stream.iter_lines()
        next(lines)
        child.send_signal(signal.SIGTERM)
        for _ in lines:
            pass
    assert child.wait(10) == 0


def test_a_signal_that_comes_while_another_one_is_handled_stops_the_server_too():
    """Ctrl-C in a terminal reaches the server twice, from the terminal and from `rvc-train up`."""
    stopping = threading.Event()
    server = Server(uvicorn.Config(app=lambda: None), SimpleNamespace(stopping=stopping))
    with stopping._cond:  # as in the middle of the first signal's `set`
        second = threading.Thread(target=server.handle_exit, args=(signal.SIGTERM, None), daemon=True)
        second.start()
        second.join(5)
        assert not second.is_alive()
        assert server.should_exit
    assert stopping.wait(5)


def test_a_server_beyond_loopback_without_a_token_does_not_start():
    env = {key: value for key, value in os.environ.items() if not key.startswith("RVC_TRAIN_")}
    env["RVC_TRAIN_HOST"] = "0.0.0.0"  # noqa: S104 - that it is refused is the point
    command = [sys.executable, "-m", "server"]
    ran = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "secrets.token_urlsafe" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_folder_has_one_server_and_the_next_one_may_come_when_it_has_gone(started, tmp_path):
    child, _ = started()
    storage = Storage(tmp_path / "data")
    with pytest.raises(SettingsRefused, match="another server uses the data folder"):
        storage.lock(0)
    child.kill()  # the system lets go of what a killed process held
    child.wait()
    storage.lock(0).release()


@pytest.mark.parametrize("program", ["server", "worker"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RVC_TRAIN_DATA_FOLDER", __file__, "test_process.py"),
        ("RVC_TRAIN_DATABASE_URL", "no address", "Could not parse"),
        ("RVC_TRAIN_DATABASE_URL", "postgresql+psycopg2://a/b", "psycopg2"),
        ("RVC_TRAIN_LOG_LEVEL", "loud", "log_level"),
    ],
)
def test_invalid_settings_are_reported_without_a_traceback(tmp_path, program, name, value, message):
    env = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(tmp_path), name: value}
    done = run_program(program, environment=env)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_killed_leaves_no_report_program_behind(started, eventually, authorized):
    command = [sys.executable, "-c", "import time; time.sleep(120)"]
    child, url = started(RVC_TRAIN_REPORT_COMMAND=json.dumps(command))
    assert httpx.put(f"{url}/v1/datasets/a/content", content=b"RIFF", headers=authorized).status_code == 201
    server = psutil.Process(child.pid)
    eventually(lambda: [each for each in server.children() if "time.sleep(120)" in " ".join(each.cmdline())])
    (report,) = server.children()
    eventually(lambda: "server.datasets.sandbox" not in report.cmdline())
    child.kill()
    report.wait(10)
