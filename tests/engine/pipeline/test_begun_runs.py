"""A run that resumes needs no base weights, and recordings replace no clips that another program prepared."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.cli.pipeline_script import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset, MissingWeights
from rvc_engine.events import EXIT_SUCCEEDED, EXIT_USAGE, Event, Log, Metric, StageChanged, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline import preflight
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.workspace.layout import Workspace

CONFIG = TrainingConfig(content="whisper-tiny", pretrained="none", width=24, pitch="dio")
WITH_BASE = TrainingConfig(content="whisper-tiny", pitch="dio")
NO_INDEX = StageSelection(index=False)


def check(workspace: Workspace, machine: Machine, config: TrainingConfig = CONFIG, dataset: Path | None = None) -> None:
    preflight.check(dataset, workspace, config, machine, lambda _: None, trains=True, continues_to_index=False)


def messages(events: list[Event], kind: type[Log] | type[Warned]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, kind))


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metric)]


@pytest.mark.parametrize("left", ["pair", "checkpoint"])
def test_a_folder_with_a_pair_or_a_checkpoint_trains_on_where_no_base_weights_are(
    finished: Workspace, tmp_path: Path, left: str
) -> None:
    without = Machine(device="cpu", weights_folder=tmp_path / "none", pretrained_g=tmp_path / "gone.pth")
    if left == "pair":
        shutil.rmtree(finished.recovery)
    else:
        for path in finished.root.glob("[GD]_*.pth"):
            path.unlink()
    check(finished, without, WITH_BASE)
    shutil.rmtree(finished.recovery, ignore_errors=True)
    for path in finished.root.glob("[GD]_*.pth"):
        path.unlink()
    with pytest.raises(MissingWeights, match=r"gone\.pth"):
        check(finished, without, WITH_BASE)


def test_a_finished_run_stays_finished_when_base_weights_are_given_later(
    finished: Workspace, tmp_path: Path, machine: Machine
) -> None:
    config = CONFIG.model_copy(update={"batch_size": 2, "total_epochs": 1, "learning_rate": 1e-3})
    given = tmp_path / "given.pth"
    shutil.copy(finished.root / "G_3.pth", given)
    for told in ("the run began with none and goes on so, not with given.pth", "base weights are not read"):
        events: list[Event] = []
        on = replace(machine, pretrained_g=given)
        make_voice(None, finished, config, on, events.append, selection=NO_INDEX)
        assert told in messages(events, Warned if given.exists() else Log)
        assert next(event.state for event in events if isinstance(event, StageChanged)) == "skipped"
        given.unlink(missing_ok=True)


@pytest.mark.long  # the test before takes no step
def test_a_run_goes_on_with_the_base_weights_it_began_with_whatever_is_given_later(
    finished: Workspace, tmp_path: Path, machine: Machine
) -> None:
    generator, discriminators, other = (tmp_path / name for name in ("base_G.pth", "base_D.pth", "other_G.pth"))
    shutil.copy(finished.root / "G_3.pth", generator)
    shutil.copy(finished.root / "D_3.pth", discriminators)
    shutil.copy(finished.root / "G_3.pth", other)
    for path in [*finished.root.glob("[GD]_*.pth"), finished.root / "saves.json"]:
        path.unlink()
    for folder in (finished.recovery, finished.weights):
        shutil.rmtree(folder)
    config = CONFIG.model_copy(update={"batch_size": 4, "evaluate": "never"})

    def train(total_epochs: int, g: Path | None, d: Path | None) -> list[Event]:
        events: list[Event] = []
        settings = config.model_copy(update={"total_epochs": total_epochs})
        on = replace(machine, pretrained_g=g, pretrained_d=d)
        make_voice(None, finished, settings, on, events.append, selection=NO_INDEX)
        return events

    train(1, generator, discriminators)
    began = RecoveryStore(finished, {}).base_weights()
    assert began is not None
    assert began.startswith("base_G.pth ")
    events = train(2, other, discriminators)
    assert f"the run began with {began} and goes on so, not with other_G.pth" in messages(events, Warned)
    assert len(steps(events)) == 2
    generator.unlink()
    discriminators.unlink()
    events = train(3, generator, discriminators)  # the files are gone
    assert "base weights are not read" in messages(events, Log)
    assert len(steps(events)) == 2
    assert len(steps(train(4, None, None))) == 2  # and the options too
    assert RecoveryStore(finished, {}).base_weights() == began
    assert steps(train(4, None, None)) == []  # finished


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runner of the script with base weights that are gone, up to the run itself."""
    monkeypatch.setattr("rvc_engine.pipeline.process.run_engine", lambda *_, **__: EXIT_SUCCEEDED)
    words = ["-e", "anna", "-pg", "gone_g.pth", "-pd", "gone_d.pth", "--logs", str(tmp_path), "--pretrained", "none"]
    return lambda *more: CliRunner().invoke(app, [*words, *more])


def test_options_that_name_absent_base_weights_are_refused_only_where_training_begins(
    script: Callable[..., Result], finished: Workspace
) -> None:
    assert script().exit_code == EXIT_SUCCEEDED
    shutil.rmtree(finished.recovery)
    assert script().exit_code == EXIT_SUCCEEDED  # by the pair
    for path in finished.root.glob("[GD]_*.pth"):
        path.unlink()
    refused = script()
    assert refused.exit_code == EXIT_USAGE
    assert "-pg/--pretrain_g: there is no file gone_g.pth" in refused.output
    assert script("--skip-training").exit_code == EXIT_SUCCEEDED


def test_recordings_do_not_replace_clips_that_another_program_prepared(
    finished: Workspace, recordings: Path, machine: Machine
) -> None:
    check(finished, machine, CONFIG, recordings)
    shutil.rmtree(finished.root / "stages")  # as of an interrupted run
    check(finished, machine, CONFIG, recordings)
    finished.speakers.unlink()
    before = sorted(finished.root.rglob("*"))
    with pytest.raises(InvalidDataset) as raised:
        make_voice(recordings, finished, CONFIG, machine, lambda _: None)
    for text in (
        "0_gt_wavs (",
        "2b-f0nsf (",
        "3_feature768 (",
        "another name, leave out --dataset",
        "move those folders",
    ):
        assert text in str(raised.value)
    assert sorted(finished.root.rglob("*")) == before
    check(finished, machine, CONFIG)  # what is there can be trained on
