"""Stops at any point lose and repeat nothing; checkpoints and events match the step reached."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import StopRequested
from rvc_engine.events import STAGES, CheckpointSaved, Event, Metric, Progress, Stage, StageChanged, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.training import trainer
from rvc_engine.training.step import StepResult
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
TINY = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "learning_rate": 1e-3}
NAN = StepResult(*[torch.tensor(float("nan"))] * 7)


def run(
    workspace: Workspace, recordings: Path, stop_at: Callable[[Event], bool], machine: Machine, **changes: object
) -> list[Event]:
    """One attempt that an event stops; returns all events."""
    events: list[Event] = []
    config = TrainingConfig.model_validate({**TINY, "batch_size": 2, **changes})
    make_voice(recordings, workspace, config, machine, events.append, lambda: any(map(stop_at, events)))
    return events


def losses(events: list[Event]) -> dict[int, dict[str, float]]:
    return {event.step: event.values for event in events if isinstance(event, Metric)}


def test_a_stop_in_any_stage_is_gone_on_from_and_ends_in_the_same_voice(
    finished_once: Path, tmp_path: Path, recordings: Path
) -> None:
    whole = Workspace(finished_once, "anna")
    workspace = Workspace(tmp_path / "stopped", "anna")
    machine = Machine(device="cpu", num_threads=1)  # without a cache: every stage computes

    def in_stage(stage: Stage) -> Callable[[Event], bool]:
        return lambda event: isinstance(event, StageChanged | Progress) and event.stage == stage

    for stage in STAGES:
        with pytest.raises(StopRequested):
            run(workspace, recordings, in_stage(stage), machine, total_epochs=1)
    run(workspace, recordings, lambda _: False, machine, total_epochs=1)

    ours, theirs = load_trained_synthesizer(workspace)[0], load_trained_synthesizer(whole)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert np.array_equal(np.load(workspace.total_features), np.load(whole.total_features))
    assert workspace.index_file.read_bytes() == whole.index_file.read_bytes()


def test_a_stop_at_an_epochs_last_step_leaves_out_no_save(tmp_path: Path, recordings: Path, machine: Machine) -> None:
    workspace = Workspace(tmp_path / "stopped", "anna")
    changes = {"total_epochs": 2, "save_every_epochs": 1}

    def at_step_3(event: Event) -> bool:
        return isinstance(event, Metric) and event.step == 3

    with pytest.raises(StopRequested):
        run(workspace, recordings, at_step_3, machine, **changes)
    events = run(workspace, recordings, lambda _: False, machine, **changes)

    assert min(losses(events)) == 4
    assert {path.name for path in workspace.root.glob("G_*.pth")} == {"G_3.pth", "G_6.pth"}
    assert torch.load(workspace.root / "G_3.pth", weights_only=True)["iteration"] == 1


def test_checkpoints_name_the_epoch_reached_and_the_rate_decays_once_an_epoch_also_after_going_on(make: Make) -> None:
    _, first = make(total_epochs=1, lr_decay=0.5, checkpoint_every_steps=1)
    _, second = make(total_epochs=2, lr_decay=0.5, checkpoint_every_steps=1)
    saved = [(event.step, event.epoch) for event in [*first, *second] if isinstance(event, CheckpointSaved)]
    assert saved == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    rates = [event.values["learning_rate"] for event in [*first, *second] if isinstance(event, Metric)]
    assert rates == pytest.approx([1e-3] * 3 + [0.5e-3] * 3)


def test_progress_by_the_clock_knows_of_the_least_number_of_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvc_engine.reporting.SECONDS_BETWEEN_PROGRESS", 0)
    _, events = make(max_train_seconds=0.01, total_epochs=1000)
    found = [event for event in events if isinstance(event, Progress) and event.stage == "train"]
    assert [event.step for event in found] == list(range(1, 9))
    epochs = {event.step: event.epoch for event in events if isinstance(event, Metric)}
    assert [event.epoch for event in found] == [epochs[event.step] for event in found]  # not yet the next one
    assert [round(event.stage_progress, 3) for event in found] == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.999]
    assert all(event.eta_seconds and event.eta_seconds > 0 for event in found[:-1])


def test_a_spoiled_last_step_that_nobody_looked_at_is_not_saved_and_progress_does_not_fall(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where reading the losses waits for the device and is not done at every step."""
    monkeypatch.setattr("rvc_engine.reporting.SECONDS_BETWEEN_PROGRESS", 0)
    real, calls = trainer.training_step, itertools.count(1)
    monkeypatch.setattr(trainer._Trainer, "_read_metrics", lambda *_: None)
    monkeypatch.setattr(trainer, "training_step", lambda *given: (real(*given), NAN)[next(calls) == 3])
    _, events = make(total_epochs=1, checkpoint_every_steps=2)
    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert "at step 3" in warning
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [2, 3]
    progress = [event.progress for event in events if isinstance(event, Progress)]
    assert progress == sorted(progress)
