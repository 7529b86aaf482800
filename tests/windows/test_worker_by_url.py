"""A worker by a Python for Windows serves a server on this machine, of another system, by its address and a token."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rvc_train.schemas.access import Scope, TokenCreate
from tests.windows.__main__ import find_python, install, native, own_environment, run

pytestmark = [pytest.mark.windows, pytest.mark.long, pytest.mark.timeout(1800)]
if sys.platform == "win32":
    pytest.skip("the server of this test runs on another system", allow_module_level=True)

TRAINING = {
    "width": 24,
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "batch_size": 4,
    "total_epochs": 4,
    "checkpoint_every_steps": 1,
    "evaluate": "never",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The Python for Windows, and the folder with the wheel of this checkout as it has it."""
    found = find_python()
    if found is None:
        pytest.skip("there is no Python for Windows: set WINDOWS_PYTHON")
    folder = tmp_path_factory.mktemp("wheel")
    install(found, folder)
    return found, native(folder / "installed")


def test_a_terminated_worker_on_windows_goes_on_with_its_job_for_a_server_on_linux(
    station: Any, python: tuple[Path, str], tmp_path: Path
) -> None:
    program, packages = python
    station.environment["RVC_TRAIN_LEASE_SECONDS"] = "30"
    station.start_server()
    dataset = station.upload(*sorted(station.samples.glob("*.flac"))[:2], name="anna")
    settings = {
        "WORKER_SERVER": station.url,
        "TOKEN": station.client.access.create_token(TokenCreate(owner="machines", scopes=[Scope.WORK])).secret,
        "DATA_FOLDER": native(tmp_path / "windows"),
        "DEVICE": "cpu",
        "CALIBRATE": "false",
        "CONVERSIONS": "false",
        "HEARTBEAT_SECONDS": "1",
        "RETRY_DELAY_SECONDS": "0",
        "ENGINE_ENVIRONMENT": "ONEDNN_MAX_CPU_ISA",
    }
    environment = own_environment() | {f"RVC_TRAIN_{name}": value for name, value in settings.items()}
    environment |= {"PYTHONPATH": packages, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}  # as in conftest.py
    output = tmp_path / "windows.log"

    def start_worker() -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen([program, "-P", "-m", "worker"], env=environment, stdout=log, stderr=log)

    def has(kind: str) -> bool:
        return kind in [event.type for event in station.client.events(job.id)]

    workers = [start_worker()]
    try:
        job = station.submit(dataset, name="anna", config=TRAINING)
        wait_for(lambda: has("checkpoint_saved"), output)
        (worker,) = (each for each in station.client.workers() if each.job_id == job.id)
        run(program, "-c", f"import os, signal; os.kill({worker.pid}, signal.SIGTERM)")  # which is TerminateProcess
        workers.append(start_worker())
        wait_for(lambda: station.client.job(job.id).status in {"succeeded", "failed"}, output)
        done = station.client.job(job.id)
        assert (done.status, done.attempt) == ("succeeded", 2), output.read_text()
        assert {"voice", "index"} <= {file.kind for file in station.client.artifacts(job.id)}
        assert {each.host for each in station.client.workers()} == {worker.host}
    finally:
        for each in station.client.workers():
            if each.status not in {"lost", "stopped"}:
                station.client.drain_worker(each.id, "hand_back")
        for process in workers:
            process.wait(120)


def wait_for(is_so: Any, output: Path, seconds: float = 800) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, output.read_text()[-4000:]
        time.sleep(0.5)
