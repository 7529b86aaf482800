"""Evaluations of saves: scores, previews and the best voice, without an effect on training."""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles, list_clips
from rvc_engine.errors import StopRequested
from rvc_engine.evaluation import runner
from rvc_engine.evaluation.evaluator import Evaluator, _compare_pitch, _pitch_scores
from rvc_engine.events import ArtifactReady, Evaluated, Event, Log, Metric, PreviewReady, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.pitch.swift import SwiftEstimator
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
CPU = torch.device("cpu")
ALWAYS = {"evaluate": "always", "save_every_epochs": 1, "total_epochs": 2}


def evaluated(events: list[Event]) -> list[Evaluated]:
    return [event for event in events if isinstance(event, Evaluated)]


@pytest.fixture(scope="module")
def judged_once(
    tmp_path_factory: pytest.TempPathFactory, recordings: Path, machine: Machine
) -> tuple[Path, list[Event]]:
    """A run of two evaluated saves."""
    root, events = tmp_path_factory.mktemp("judged") / "anna", []
    fields = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}
    config = TrainingConfig.model_validate({**fields, "learning_rate": 1e-3, "save_every_weights": True, **ALWAYS})
    make_voice(recordings, Workspace(root, "anna"), config, machine, events.append)
    return root, events


# --- a run


def test_each_save_leaves_scores_sound_and_a_picture(judged_once: tuple[Path, list[Event]]) -> None:
    root, events = judged_once
    found = evaluated(events)
    assert [(event.step, event.epoch, event.held_out, event.num_clips) for event in found] == [
        (3, 1, False, 2),
        (6, 2, False, 2),
    ]
    for event in found:
        assert {"eval/mel", "eval/mel_posterior", "eval/voicing"} <= set(event.values)
    previews = [event for event in events if isinstance(event, PreviewReady)]
    assert [(event.step, event.clip) for event in previews] == [(3, 1), (6, 1)]
    assert len({event.recording for event in previews}) == 1
    for event in previews:
        sound, rate = soundfile.read(event.audio)
        recorded, _ = soundfile.read(event.recording)
        assert (rate, len(sound)) == (40_000, round(event.seconds * 40_000))
        assert len(recorded) == len(sound)
        assert np.abs(sound).max() > 0
        assert Path(event.audio) == root / "previews" / f"e{event.epoch}_s{event.step}_1.flac"
        with Image.open(event.picture) as picture:
            assert picture.width > event.seconds * 200
    slices = [soundfile.read(path)[0] for path in (root / "0_gt_wavs").glob("*.wav")]
    assert any(np.abs(wave[: len(recorded)] - recorded[: len(wave)]).max() < 1e-4 for wave in slices)


def test_the_save_with_the_lowest_mel_is_offered_as_the_best(judged_once: tuple[Path, list[Event]]) -> None:
    root, events = judged_once
    lowest = min(evaluated(events), key=lambda event: event.values["eval/mel"])
    assert [event.is_best for event in evaluated(events)] == [
        event.values["eval/mel"] == min(each.values["eval/mel"] for each in evaluated(events)[: n + 1])
        for n, event in enumerate(evaluated(events))
    ]
    [artifact] = [event for event in events if isinstance(event, ArtifactReady) and event.kind == "best"]
    assert artifact.name == "anna_best.pth"
    best, save = (
        torch.load(root / "weights" / name, weights_only=True)
        for name in ("anna_best.pth", f"anna_e{lowest.epoch}_s{lowest.step}.pth")
    )
    assert (best["model_hash"], best["epoch"], best["step"]) == (save["model_hash"], lowest.epoch, lowest.step)
    remembered = json.loads((root / "evaluation.json").read_text())
    assert remembered["best"]["step"] == lowest.step
    assert [row["step"] for row in remembered["evaluations"]] == [3, 6]


def test_no_index_is_taken_for_another_voices_because_of_the_best(judged_once: tuple[Path, list[Event]]) -> None:
    root, _ = judged_once
    # By RVC's rules (formats): an index that holds the full stem, or begins or goes on with the name.
    [main] = [path.name for path in (root / "weights").glob("*.index")]
    assert "anna" in main
    assert "anna_best" not in main
    assert not any("best" in path.name for path in root.glob("*.index"))


def test_training_ends_in_the_same_weights_with_evaluations_and_without(
    make: Make, judged_once: tuple[Path, list[Event]]
) -> None:
    without, events = make(**{**ALWAYS, "evaluate": "never"})
    assert not evaluated(events)
    assert not (without.root / "evaluation.json").exists()
    ours, theirs = load_trained_synthesizer(Workspace(judged_once[0], "anna"))[0], load_trained_synthesizer(without)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_goes_on_measures_the_same_and_tells_nothing_twice(
    make: Make, recordings: Path, machine: Machine, tmp_path: Path, judged_once: tuple[Path, list[Event]]
) -> None:
    whole = json.loads((judged_once[0] / "evaluation.json").read_text())
    fields = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}
    config = TrainingConfig.model_validate(
        {**fields, "learning_rate": 1e-3, "save_every_weights": True, "checkpoint_every_steps": 2, **ALWAYS}
    )
    workspace, events = Workspace(tmp_path / "stopped", "anna"), []

    def is_evaluated() -> bool:
        return len(evaluated(events)) == 1

    with pytest.raises(StopRequested):
        make_voice(recordings, workspace, config, machine, events.append, is_evaluated)
    (workspace.recovery / "manifest.json").write_text(_without_last((workspace.recovery / "manifest.json").read_text()))
    events.clear()
    make_voice(recordings, workspace, config, machine, events.append)

    assert [event.step for event in evaluated(events)] == [3, 6]  # step 3 is done again: the checkpoint is of step 2
    again = json.loads((workspace.root / "evaluation.json").read_text())
    for key in ("clips", "best", "evaluations"):
        assert again[key] == whole[key]
    best, same = (
        torch.load(path, weights_only=True)["model_hash"]
        for path in (workspace.best_file, judged_once[0] / "weights" / "anna_best.pth")
    )
    assert best == same


def _without_last(manifest: str) -> str:
    rows = json.loads(manifest)["checkpoints"]
    return json.dumps({"checkpoints": rows[:-1]})


def test_evaluations_cost_no_more_than_their_share_of_the_time_and_saves_go_when_newer_ones_are_there(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_TIME_FRACTION", 0.0)
    workspace, events = make(save_every_epochs=1, save_every_weights=True, keep_saves="latest")
    assert not evaluated(events)
    assert len([event for event in events if isinstance(event, Log) and "is not evaluated" in event.message]) == 2
    assert {path.name for path in workspace.root.glob("?_*.pth")} == {"G_6.pth", "D_6.pth"}
    assert {path.name for path in workspace.weights.glob("*_e*.pth")} == {"anna_e2_s6.pth"}
    assert list(workspace.recovery.glob("step_*.pt"))


class CountingScorer:
    """Scorer whose similarities decrease with each call."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = itertools.count()

    def embed(self, wave_16k: np.ndarray) -> np.ndarray:
        assert len(wave_16k) > 8000
        angle = 0.1 * max(0, next(self.calls) - 1)  # the two recordings come first
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_a_run_is_also_evaluated_between_saves_and_with_a_scorer_that_is_installed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_TIME_FRACTION", 1000.0)
    monkeypatch.setattr(runner, "installed_scorer", CountingScorer)
    _, events = make(evaluate_every_epochs=1)
    first, second = evaluated(events)
    assert (first.epoch, second.epoch) == (1, 2)
    assert first.values["eval/similarity"] == pytest.approx((np.cos(0.1) + np.cos(0.2)) / 2, abs=1e-5)
    assert second.values["eval/similarity"] == pytest.approx((np.cos(0.3) + np.cos(0.4)) / 2, abs=1e-5)


# --- measuring


@pytest.fixture
def clips(finished: Workspace) -> Callable[[Hyperparameters], list[ClipFiles]]:
    return lambda hparams: list_clips(finished, hparams)[0][:2]


def test_the_loading_of_kernels_at_the_first_rendering_counts_for_no_estimate(
    clips: Callable[[Hyperparameters], list[ClipFiles]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    net, delays = Synthesizer(hparams), [0.5, 0.0]

    def infer(*_: object) -> torch.Tensor:
        time.sleep(delays.pop(0))
        return torch.zeros(1)

    monkeypatch.setattr(net, "infer", infer)
    assert Evaluator(clips(hparams), hparams, CPU, SwiftEstimator(1), None).estimate_seconds(net) < 0.5
    assert not delays


@pytest.mark.parametrize("variant", [{}, {"f0": False}])
def test_an_evaluation_gives_the_same_values_each_time_and_leaves_no_trace(
    clips: Callable[[Hyperparameters], list[ClipFiles]], variant: dict[str, object]
) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig.model_validate({"width": 24, "pretrained": "none", **variant}))
    net = Synthesizer(hparams)
    before = torch.get_rng_state()
    first = Evaluator(clips(hparams), hparams, CPU, SwiftEstimator(1), None).evaluate(net)
    evaluator = Evaluator(clips(hparams), hparams, CPU, SwiftEstimator(1), None)
    assert evaluator.estimate_seconds(net) > 0
    assert evaluator.evaluate(net).values == evaluator.evaluate(net).values == first.values
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.gpu
def test_a_gpu_measures_what_a_cpu_does(clips: Callable[[Hyperparameters], list[ClipFiles]]) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    net, cuda = Synthesizer(hparams), torch.device("cuda")
    here = Evaluator(clips(hparams), hparams, CPU, SwiftEstimator(1), None).evaluate(net)
    there = Evaluator(clips(hparams), hparams, cuda, SwiftEstimator(1), None).evaluate(net.to(cuda))
    assert there.values["eval/mel"] == pytest.approx(here.values["eval/mel"], rel=0.01)


def test_pitch_a_semitone_too_high_is_off_by_100_cents_and_voicing_is_counted_apart() -> None:
    recorded = np.array([0, 0, 200, 210, 220, 230.0])
    rendered = np.array([0, 150, *(recorded[2:5] * 2 ** (1 / 12)), 0])
    scores = _pitch_scores([_compare_pitch(rendered, recorded)])
    assert scores["eval/f0_cents"] == pytest.approx(100)
    assert scores["eval/voicing"] == pytest.approx(2 / 6)


def test_clips_without_a_voiced_frame_tell_nothing_of_pitch() -> None:
    assert _pitch_scores([_compare_pitch(np.zeros(5), np.zeros(5))]) == {"eval/voicing": 0.0}


@pytest.mark.parametrize("error", [RuntimeError("cuDNN: CUDNN_STATUS_ALLOC_FAILED")])
def test_an_evaluation_without_memory_is_left_out_and_said(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Evaluator, "evaluate", fail)
    _, events = make(**{**ALWAYS, "total_epochs": 1})
    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert warning == "step 3 was not evaluated: the device is out of memory"


# --- a run that dies


@pytest.mark.long  # test_pairs.py compares what is gone on from each day
@pytest.mark.parametrize(("checkpoints", "first_step"), [(4, 5), (None, 7)])
def test_a_run_of_one_pair_that_dies_after_a_save_keeps_its_checkpoint_its_evaluations_and_its_best(
    tmp_path: Path, recordings: Path, machine: Machine, checkpoints: int | None, first_step: int
) -> None:
    """From its own checkpoint where it has one, though the pair is newer; from the pair where it has none."""
    fields = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2, **ALWAYS}
    fields |= {"total_epochs": 3, "save_only_latest": True, "checkpoint_every_steps": checkpoints}
    config, workspace = TrainingConfig.model_validate(fields), Workspace(tmp_path / "anna", "anna")
    events: list[Event] = []

    def die_at_step_6(event: Event) -> None:
        if isinstance(event, PreviewReady) and event.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_voice(recordings, workspace, config, machine, die_at_step_6)
    make_voice(recordings, workspace, config, machine, events.append)

    assert next(event.step for event in events if isinstance(event, Metric)) == first_step
    rows = json.loads((workspace.root / "evaluation.json").read_text())["evaluations"]
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert workspace.best_file.is_file()
