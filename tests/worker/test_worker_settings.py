"""What the environment says to a worker."""

from pathlib import Path

from worker.settings import WorkerSettings


def test_an_empty_variable_says_nothing_as_it_does_to_the_server(monkeypatch):
    monkeypatch.setenv("RVC_TRAIN_WEIGHTS_FOLDER", "")
    monkeypatch.setenv("RVC_TRAIN_DEVICE", "")
    monkeypatch.setenv("RVC_TRAIN_DATA_FOLDER", "/voices")
    settings = WorkerSettings()
    assert (settings.weights_folder, settings.device, settings.data_folder) == (None, "auto", Path("/voices"))
