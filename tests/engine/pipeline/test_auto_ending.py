"""Runs with total_epochs=auto: they end where saves no longer improve, and their voice is the best save."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import TrainingConfig
from rvc_engine.data import split
from rvc_engine.errors import StopRequested
from rvc_engine.evaluation import evaluator, stopping
from rvc_engine.events import ArtifactReady, Evaluated, Event, Progress, TrainingEnded, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.voices import export
from rvc_engine.workspace.layout import Workspace

AUTO = {
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "width": 24,
    "batch_size": 2,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "lr_decay": 0.4,  # learns for a few epochs only
    "total_epochs": "auto",
    "stop_share": 0.2,
    "max_epochs": 40,
    "checkpoint_every_steps": 2,
}
"""Three steps make an epoch."""


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """An evaluation of one short clip after each epoch, and five before the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "NUM_TRAINING_CLIPS", 1)
        patch.setattr(evaluator, "PREVIEW_FRAMES", 60)
        patch.setattr(export, "CHECK_FRAMES", 30)
        patch.setattr(stopping, "MIN_SPACING", 1)
        patch.setattr(stopping, "MIN_EVALUATIONS", 5)
        yield


def train(
    root: Path, recordings: Path, machine: Machine, stops: Callable[[Event], bool] = lambda _: False, **changes: object
) -> list[Event]:
    """Make a voice, or go on with it; stop after an event for which `stops` is true."""
    events: list[Event] = []
    config = TrainingConfig.model_validate({**AUTO, **changes})
    make_voice(recordings, Workspace(root, "anna"), config, machine, events.append, lambda: any(map(stops, events)))
    return events


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, recordings: Path, machine: Machine) -> tuple[Path, list[Event]]:
    root = tmp_path_factory.mktemp("ended") / "anna"
    return root, train(root, recordings, machine)


def the_end(events: list[Event]) -> TrainingEnded:
    (end,) = [event for event in events if isinstance(event, TrainingEnded)]
    return end


def without_time(event: TrainingEnded) -> dict[str, object]:
    return event.model_dump(exclude={"time"})


def test_training_ends_where_saves_no_longer_improve(ended: tuple[Path, list[Event]]) -> None:
    _, events = ended
    end, evaluated = the_end(events), [event for event in events if isinstance(event, Evaluated)]
    assert (end.reason, end.step) == ("no_better_save", evaluated[-1].step)
    assert 5 <= len(evaluated) < 40
    best = [event for event in evaluated if event.is_best][-1]
    assert (end.best_step, end.best_epoch) == (best.step, best.epoch)
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "train"]
    assert {event.eta_seconds for event in progress} == {None}, "when saves stop improving is not known before"
    assert all(event.total_epochs == 40 for event in progress if event.total_epochs is not None)
    assert sum("no clips are held out" in event.message for event in events if isinstance(event, Warned)) == 1


def test_the_voice_is_the_best_save_and_offered_once(ended: tuple[Path, list[Event]]) -> None:
    root, events = ended
    workspace, end = Workspace(root, "anna"), the_end(events)
    voice, best = load_file(workspace.voice_file), load_file(workspace.best_file)
    assert (voice["step"], voice["epoch"], voice["info"]) == (end.best_step, end.best_epoch, f"{end.best_epoch}epoch")
    assert voice["model_hash"] == best["model_hash"]
    export.read_voice(workspace.voice_file)
    kinds = [event.kind for event in events if isinstance(event, ArtifactReady)]
    assert kinds == ["voice", "index", "card", "card"]


def test_the_card_has_the_reason_and_the_curve(ended: tuple[Path, list[Event]]) -> None:
    root, events = ended
    workspace, end = Workspace(root, "anna"), the_end(events)
    card = json.loads(workspace.card_json.read_text())
    assert card["training"]["end"] == {"reason": "no_better_save", "epochs": end.epoch, "steps": end.step}
    assert (card["training"]["epochs"], card["training"]["steps"]) == (end.best_epoch, end.best_step)
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert card["evaluation"]["curve"] == [[each.step, each.values["eval/mel"]] for each in evaluated]
    page = workspace.card_page.read_text()
    assert f"after {end.epoch} epochs, {end.step} steps: later saves were not better" in page
    assert f"{end.step}: {evaluated[-1].values['eval/mel']:.2f}." in page


def test_an_interrupted_run_ends_at_the_same_step_with_the_same_voice(
    ended: tuple[Path, list[Event]], tmp_path: Path, recordings: Path, machine: Machine
) -> None:
    root, events = ended

    def stops(event: Event) -> bool:
        return isinstance(event, Evaluated) and event.epoch == 3

    with pytest.raises(StopRequested):
        train(tmp_path / "anna", recordings, machine, stops)
    resumed = train(tmp_path / "anna", recordings, machine)
    assert without_time(the_end(resumed)) == without_time(the_end(events))
    hashes = [load_file(Workspace(folder, "anna").voice_file)["model_hash"] for folder in (root, tmp_path / "anna")]
    assert hashes[0] == hashes[1]


@pytest.mark.long  # when a retry goes on is tested each day, by the service; the rule by test_stopping.py
def test_an_ended_run_trains_on_when_told_to(
    ended: tuple[Path, list[Event]], recordings: Path, machine: Machine
) -> None:
    root, events = ended
    end, workspace = the_end(events), Workspace(root, "anna")
    again = train(root, recordings, machine)
    assert not any(isinstance(event, Evaluated | TrainingEnded) for event in again), "nothing is left to do"
    timed = train(root, recordings, machine, stop_share=0.9, max_train_seconds=0.01)
    assert (the_end(timed).reason, the_end(timed).best_step) == ("max_train_seconds", end.best_step)

    def breaks_best(event: Event) -> bool:
        if isinstance(event, TrainingEnded):
            workspace.best_file.write_bytes(b"broken")
        return False

    limited = train(root, recordings, machine, breaks_best, stop_share=0.9, max_epochs=end.epoch + 1)
    assert (the_end(limited).reason, the_end(limited).epoch) == ("max_epochs", end.epoch + 1)
    assert any("that of the last save" in event.message for event in limited if isinstance(event, Warned))
    assert load_file(workspace.voice_file)["epoch"] == end.epoch + 1
    fixed = train(root, recordings, machine, total_epochs=end.epoch + 2, stop_share=0.3, max_epochs=1000)
    assert load_file(workspace.voice_file)["epoch"] == end.epoch + 2, "a number: the last save"
    assert not any(isinstance(event, TrainingEnded) for event in fixed)
    assert json.loads(workspace.card_json.read_text())["training"]["end"] is None


def test_options_that_contradict_each_other_are_refused() -> None:
    for fields, part in (
        ({"total_epochs": "auto", "evaluate": "never"}, "needs evaluations"),
        ({"total_epochs": 20, "stop_share": 0.5}, "are for total_epochs=auto"),
        ({"total_epochs": "best"}, "a number of epochs from 1 to 20000, or auto"),
        ({"total_epochs": True}, "a number of epochs from 1 to 20000, or auto"),
    ):
        with pytest.raises(ValueError, match=part):
            TrainingConfig.model_validate(fields)
