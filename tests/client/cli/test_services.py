"""Server and worker as children of `rvc-train up`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from rvc_train.cli.services import free_port
from rvc_train.client import Client, connect


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
    environment = os.environ | {"RVC_TRAIN_TOKEN": token, "RVC_TRAIN_DEVICE": "cpu"}
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
