"""A finished voice scored by conversions of a woman and a man: with every scorer, and with none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import StopRequested
from rvc_engine.evaluation.history import Row
from rvc_engine.event_text import quality_text
from rvc_engine.events import Event, Log, QualityScored, Warned, format_event, parse_event
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.quality import scorers, scoring
from rvc_engine.quality.scorers import Scorers, Speech, kept_scores
from rvc_engine.reporting import StageReport
from rvc_engine.voices.export import VoiceDetails
from rvc_engine.weights.assets import FOREIGN_SPEAKERS
from rvc_engine.workspace.layout import Workspace

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.flac"))[:2]
CONFIG = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}
CPU = torch.device("cpu")
Scored = tuple[Workspace, TrainingConfig, Machine, list[Event]]


class _StandIn:
    """Scorers whose weights need a download, replaced by what can be computed of the sound."""

    name = "stand-in"

    def embed(self, wave: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(wave, 32_000))[:256].astype(np.float32)
        return power / np.linalg.norm(power)

    def score(self, wave: np.ndarray) -> float:
        return 1 + 4 * float(np.abs(wave).mean() / np.abs(wave).max())

    def transcribe(self, waves: list[np.ndarray]) -> list[str]:
        return [f"{len(wave)} samples" for wave in waves]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, short_foreign_speakers: None) -> Scored:
    """A run of one epoch, scored without anything beyond the engine itself."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "recordings").mkdir()
    for path in SAMPLES:
        shutil.copy(path, folder / "recordings")
    config = TrainingConfig.model_validate({**CONFIG, "total_epochs": 1, "evaluate": "always"})
    machine = Machine(device="cpu", num_threads=1, weights_folder=folder / "weights")
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorers, "package_file", lambda *_: None)
        make_voice(folder / "recordings", Workspace(folder / "anna", "anna"), config, machine, events.append)
    return Workspace(folder / "anna", "anna"), config, machine, events


def again(scored: Scored, *, seconds: float = 0.0, **changes: Any) -> list[Event]:
    """Score the same run again; `seconds`: time that its training is said to have taken."""
    workspace, config, machine, _ = scored
    events: list[Event] = []
    details = VoiceDetails("anna", 1, 3, "whisper-tiny", 9.0, training_seconds=seconds)
    scoring.run(
        workspace, config.model_copy(update=changes), machine, CPU, details, StageReport("export", events.append)
    )
    return events


def scores_of(events: list[Event]) -> list[QualityScored]:
    return [event for event in events if isinstance(event, QualityScored)]


def test_without_scorers_a_voice_has_intonation_and_voicing_between_their_bounds(
    scored: Scored,
) -> None:
    events = scored[3]
    [event] = scores_of(events)
    assert set(event.values) == {
        f"quality/{name}{bound}"
        for name in ("f0_correlation", "voicing_agreement")
        for bound in ("", "/floor", "/ceiling")
    }
    assert all(-1 <= value <= 1 for value in event.values.values())
    assert parse_event(format_event(event)) == event
    assert "voicing right in" in quality_text(event)
    told = next(each.message for each in events if isinstance(each, Log) and "not measured" in each.message)
    assert "similarity, naturalness, character errors" in told
    assert "rvc-engine weights fetch quality" in told
    assert not [each for each in events if isinstance(each, Warned) and "scored" in each.message]


def test_the_scores_stand_with_the_evaluation_and_in_the_card(
    scored: Scored,
) -> None:
    workspace, _, _, events = scored
    [event] = scores_of(events)
    kept = json.loads((workspace.root / "evaluation.json").read_text())
    [row] = kept["evaluations"]
    assert row["values"].items() >= event.values.items()
    assert "eval/mel" in row["values"]
    card = json.loads(workspace.card_json.read_text())["evaluation"]
    assert card["last"]["values"].items() >= event.values.items()
    page = workspace.card_page.read_text()
    assert "| Intonation kept" in page
    assert "| Score | Without the voice | This voice | Speaker's own |" in page


def test_with_scorers_a_voice_is_compared_with_its_speaker_and_its_source(
    scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Scorers.load(scored[2].weights_folder, StageReport("export", lambda _: None))
    stand_in: Any = _StandIn()
    every = Scorers(loaded.estimator, stand_in, stand_in, stand_in)
    monkeypatch.setattr(Scorers, "load", classmethod(lambda *_: every))
    [event] = scores_of(again(scored))
    names = ("similarity", "naturalness", "character_error_rate", "f0_correlation", "voicing_agreement")
    assert set(event.values) == {f"quality/{name}{bound}" for name in names for bound in ("", "/floor", "/ceiling")}
    # What the speaker herself recorded is more like her than a stranger is.
    assert event.values["quality/similarity/floor"] < event.values["quality/similarity/ceiling"] <= 1 + 1e-6
    # The stand-in's transcript is the length of the sound, which a conversion keeps to within a few samples.
    assert event.values["quality/character_error_rate"] < event.values["quality/character_error_rate/floor"]


def test_a_short_training_is_scored_only_on_request(
    scored: Scored,
) -> None:
    assert again(scored, evaluate="never") == []
    [told] = again(scored, evaluate="auto", seconds=59)
    assert isinstance(told, Log)
    assert "evaluate=always" in told.message


def test_a_slow_machine_converts_the_sources_with_the_last_save_alone(
    scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _, _, events = scored
    step = scores_of(events)[0].step
    monkeypatch.setattr(scoring, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(scoring, "MAX_TIME_FRACTION", 0.0)
    earlier = Row(step=step - 1, epoch=1, values={"eval/mel": 1.0, "eval/f0_cents": 5.0})
    monkeypatch.setattr(scoring, "kept_evaluations", lambda _: ([earlier], earlier, True))
    shutil.copy(workspace.voice_file, workspace.best_file)
    found = again(scored, evaluate="auto", seconds=61)
    assert [event.step for event in scores_of(found)] == [step]
    assert not [key for key in scores_of(found)[0].values if key.endswith("agreement/ceiling")]
    assert any("best save is not scored" in each.message for each in found if isinstance(each, Log))
    both = again(scored, evaluate="always")
    assert [event.step for event in scores_of(both)] == [step, step - 1]


def test_a_failure_of_scoring_is_a_warning_and_a_stop_is_a_stop(
    scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a scorer failed")

    monkeypatch.setattr(scoring, "Analysis", fail)
    [warned] = again(scored)
    assert isinstance(warned, Warned)
    assert "the voice is complete" in warned.message
    assert "a scorer failed" in warned.message

    def stop(*_: object) -> None:
        raise StopRequested

    monkeypatch.setattr(scoring, "Analysis", stop)
    with pytest.raises(StopRequested):
        again(scored)


def test_a_damaged_scorer_is_left_out_with_a_warning_and_the_others_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pretrained.pt").write_bytes(b"half of it")
    made: Any = _StandIn()
    monkeypatch.setattr(scorers, "package_file", lambda _, path: tmp_path / path)
    monkeypatch.setattr(scorers, "Dnsmos", lambda *_: made)
    events: list[Event] = []
    loaded = Scorers.load(tmp_path, StageReport("export", events.append))
    assert (loaded.speaker, loaded.dnsmos, loaded.transcriber) == (None, made, None)
    [warned] = [event for event in events if isinstance(event, Warned)]
    assert "pretrained.pt" in warned.message
    assert any("similarity, character errors;" in event.message for event in events if isinstance(event, Log))


def test_intonation_is_correlated_over_the_frames_that_are_voiced_in_both() -> None:
    rise = np.concatenate([np.zeros(20), np.linspace(100, 200, 80)])

    def speech(hz: np.ndarray) -> Speech:
        return Speech(np.zeros(0, np.float32), hz, None, None, None)

    an_octave_up = kept_scores(speech(2 * rise), speech(rise))
    assert an_octave_up["f0_correlation"] == pytest.approx(1)
    assert an_octave_up["voicing_agreement"] == 1
    fall = np.concatenate([np.zeros(10), np.linspace(200, 100, 90)])
    assert kept_scores(speech(fall), speech(rise))["f0_correlation"] < -0.9
    assert kept_scores(speech(fall), speech(rise))["voicing_agreement"] == pytest.approx(0.9)
    assert kept_scores(speech(np.full(100, 150.0)), speech(rise))["f0_correlation"] == 0, "a monotone follows nothing"
    assert "f0_correlation" not in kept_scores(speech(np.zeros(100)), speech(rise)), "a whisper has no intonation"


def test_the_package_carries_a_woman_and_a_man() -> None:
    estimator = Scorers.load(Path("nowhere"), StageReport("export", lambda _: None)).estimator
    medians = []
    for path in FOREIGN_SPEAKERS:
        wave, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        assert 4 < len(wave) / rate < 8
        assert path.stat().st_size < 300_000
        [hz] = estimator.estimate([wave])
        medians.append(float(np.median(hz[hz > 0])))
    woman, man = medians
    assert woman > 180
    assert man < 130
