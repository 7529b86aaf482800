"""The benchmark of learning beside RVC WebUI: equal steps for both, and scores of what was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from benchmarks import learning
from benchmarks.learning import whole_batches
from benchmarks.made_up_clips import write_clips
from benchmarks.put_aside import SAMPLES
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import list_clips
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.workspace.layout import Workspace

ROOT = Path(__file__).parents[2]
SMALL = ["--width", "24", "--seeds", "1", "--steps", "1", "--batch-size", "1", "--precisions", "fp32"]
CHECKOUT = os.environ.get("RVC_WEBUI")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings, of which the first is long enough to train on and the fifth is put aside."""
    folder = tmp_path_factory.mktemp("recordings")
    wave, rate = soundfile.read(SAMPLES / "vm-intro.flac")
    for name, seconds in {"a": 1.5, "b": 0.4, "c": 0.4, "d": 0.4, "e": 1.5}.items():
        soundfile.write(folder / f"{name}.flac", wave[: int(seconds * rate)], rate)
    return folder


def test_both_programs_get_clips_of_which_each_makes_whole_batches(tmp_path: Path) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    for seconds, count in ((0.5, 2), (1.0, 3), (2.0, 5)):  # by RVC WebUI's measure 66, 133 and 266 long
        write_clips(tmp_path / str(seconds), hparams, count, seconds)
    found = [list_clips(Workspace(folder, "bench"), hparams)[0] for folder in sorted(tmp_path.iterdir())]
    kept = whole_batches([clip for clips in found for clip in clips], hparams.hop_length, 2)
    assert [clip.wave.parents[1].name for clip in kept] == ["1.0"] * 2 + ["2.0"] * 4


def test_a_voice_is_trained_from_the_first_weights_and_scored_beside_them(
    recordings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["learning", *SMALL, "--recordings", str(recordings)])
    learning.main()
    first, ours, *means = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["program"], ours["program"], first["steps"], ours["steps"]) == ("first weights", "fp32", 0, 1)
    assert first["scores"] != ours["scores"]
    assert {"eval/mel", "eval/mel_posterior", "kl"} <= first["scores"].keys() & ours["scores"].keys()
    assert [line["mean"] for line in means] == [first["scores"], ours["scores"]]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHECKOUT is None, reason="RVC_WEBUI names no checkout of RVC WebUI")
def test_rvc_webui_trains_beside_it_for_as_many_steps_and_is_scored_alike(recordings: Path) -> None:
    assert CHECKOUT is not None
    python = os.environ.get("RVC_WEBUI_PYTHON", sys.executable)
    # In a process of its own, because beside RVC WebUI the size of our discriminators is changed.
    command = [sys.executable, "-m", "benchmarks.learning", *SMALL, "--recordings", recordings]
    done = subprocess.run(
        [*command, "--reference", CHECKOUT, "--reference-python", python],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, theirs, ours, *means = map(json.loads, done.stdout.splitlines())
    assert (theirs["program"], theirs["steps"]) == ("reference", ours["steps"])
    assert theirs["scores"].keys() == ours["scores"].keys()
    assert abs(ours["scores"]["eval/mel"] - theirs["scores"]["eval/mel"]) < 0.2 * first["scores"]["eval/mel"]
    assert "minus_reference" in means[-1]
