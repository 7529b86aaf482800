"""What the environment says to a worker."""

import os
import subprocess
import sys
from pathlib import Path

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
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "file is not a database" in done.stderr
    assert "RVC_TRAIN_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
