"""Server and worker as children of `rvc-train up`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rvc_train.cli.commands.up import in_words
from rvc_train.cli.services import free_port
from rvc_train.client import Client, connect

REQUEST = {"event": "request", "level": "info", "method": "GET", "path": "/v1/jobs", "ms": 3.1, "request_id": "01"}
WARNING = {"event": "the disk is nearly full", "level": "warning", "logger": "server.app", "timestamp": "2026", "gb": 3}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (json.dumps(REQUEST | {"status": 304}), None),  # the page asks every two seconds
        (json.dumps(REQUEST | {"status": 500}), "request  method=GET  path=/v1/jobs  ms=3.1  status=500"),
        (json.dumps({"event": "Started server process [7]", "level": "info", "logger": "uvicorn.error"}), None),
        (json.dumps(WARNING), "warning: the disk is nearly full  gb=3"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_on_a_terminal_the_servers_log_is_text_without_its_routine(line: str, shown: str | None) -> None:
    assert in_words(line) == shown


def started(port: int, token: str, up: subprocess.Popen[bytes], log: Path) -> list[psutil.Process]:
    """Server and worker, once both are ready."""
    deadline = time.monotonic() + 60
    with Client(connect(f"http://127.0.0.1:{port}", token)) as client:
        while not (client.is_ready() and list(client.workers())):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    services = psutil.Process(up.pid).children()
    assert len(services) == 2
    return services


def test_server_and_worker_of_a_killed_up_stop_in_order(tmp_path: Path) -> None:
    port, token = free_port(), "the-token-of-a-test"
    environment = os.environ | {"RVC_TRAIN_TOKEN": token, "RVC_TRAIN_DEVICE": "cpu", "RVC_TRAIN_CALIBRATE": "false"}
    words = ["rvc_train.cli.main", "up", "--data", str(tmp_path / "data"), "--port", str(port), "--no-browser"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        up = subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=file, stderr=file)
    try:
        services = started(port, token, up, log)
    finally:
        up.kill()
        up.wait()
    _, left = psutil.wait_procs(services, 30)
    assert not left
    assert not list((tmp_path / "data").rglob("workers/*.json")), "the worker has cleared its slot"
