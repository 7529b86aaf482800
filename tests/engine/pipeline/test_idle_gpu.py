"""A run on the CPU beside a GPU that PyTorch cannot use."""

from pathlib import Path

import pytest

from rvc_engine.compute import accelerators
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline import pipeline
from rvc_engine.workspace.layout import Workspace


@pytest.mark.parametrize(("device", "num_warnings"), [("auto", 1), ("cpu", 0)])
def test_a_run_that_was_to_take_the_best_device_warns_of_an_idle_gpu(
    device: str, num_warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerators, "found", list)
    monkeypatch.setattr(pipeline, "gpu_advice", lambda: "this machine has the GPU X")
    events: list[Event] = []
    pipeline._Run(Workspace(tmp_path, "anna"), TrainingConfig(), Machine(device=device), events.append, lambda: False)
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert warnings == ["this machine has the GPU X"] * num_warnings
