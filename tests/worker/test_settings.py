"""Settings of a worker from its environment."""

import os
import signal
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.programs import run_program
from worker.__main__ import stop_handler
from worker.hardware.devices import device_environment, device_name, engine_device
from worker.settings import WorkerSettings


def test_an_empty_variable_says_nothing_as_it_does_to_the_server(monkeypatch):
    monkeypatch.setenv("RVC_TRAIN_WEIGHTS_FOLDER", "")
    monkeypatch.setenv("RVC_TRAIN_DEVICE", "")
    monkeypatch.setenv("RVC_TRAIN_DATA_FOLDER", "/voices")
    settings = WorkerSettings()
    assert (settings.weights_folder, settings.device, settings.data_folder) == (None, "auto", Path("/voices"))


def test_a_file_that_is_no_database_is_told_of_in_a_sentence(tmp_path):
    (tmp_path / "rvc-train.db").write_text("words and words and words, and no database " * 20)
    environment = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(tmp_path)}
    done = run_program("worker", environment=environment)
    assert done.returncode == 2
    assert "file is not a database" in done.stderr
    assert "RVC_TRAIN_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "cuda:0+cuda:1"])
def test_every_device_that_a_worker_may_be_given_is_one_that_it_can_bind_its_engines_to(monkeypatch, device):
    monkeypatch.setenv("RVC_TRAIN_DEVICE", device)
    chosen = WorkerSettings().device
    assert device_name(chosen, {"CUDA_VISIBLE_DEVICES": "", "PATH": ""})
    assert engine_device(chosen)
    assert device_environment(chosen, {}) or chosen == "auto"


def test_variables_for_the_engine_that_cannot_be_are_told_with_what_is_wrong(monkeypatch):
    monkeypatch.setenv("RVC_TRAIN_ENGINE_ENVIRONMENT", "LD_PRELOAD, AWS_*")
    assert WorkerSettings().engine_environment == "LD_PRELOAD, AWS_*"
    monkeypatch.setenv("RVC_TRAIN_ENGINE_ENVIRONMENT", "RVC_TRAIN_TOKEN")
    with pytest.raises(ValidationError, match="the engine gets none of those"):
        WorkerSettings()


def test_a_signal_that_comes_while_the_idle_worker_waits_stops_it() -> None:
    stop = threading.Event()
    with stop._cond:  # as at the beginning and at the end of a wait
        handler = threading.Thread(target=stop_handler(stop), args=(signal.SIGTERM, None), daemon=True)
        handler.start()
        handler.join(5)
        assert not handler.is_alive()
    assert stop.wait(5)
