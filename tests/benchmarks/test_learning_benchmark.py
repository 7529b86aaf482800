"""The benchmark of learning beside RVC WebUI: equal steps for both, and scores of what was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.learning import whole_batches
from benchmarks.made_up_clips import write_clips
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import list_clips
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.workspace.layout import Workspace

ROOT = Path(__file__).parents[2]
SMALL = ["--width", "24", "--seeds", "1", "--steps", "1", "--batch-size", "1", "--seconds", "8", "--precisions", "fp32"]
CHECKOUT = os.environ.get("RVC_WEBUI")


def measure(*words: str, timeout: float = 280) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "benchmarks.learning", *SMALL, *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_both_programs_get_clips_of_which_each_makes_whole_batches(tmp_path: Path) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    for seconds, count in ((0.5, 2), (1.0, 3), (2.0, 5)):  # by RVC WebUI's measure 66, 133 and 266 long
        write_clips(tmp_path / str(seconds), hparams, count, seconds)
    found = [list_clips(Workspace(folder, "bench"), hparams)[0] for folder in sorted(tmp_path.iterdir())]
    kept = whole_batches([clip for clips in found for clip in clips], hparams.hop_length, 2)
    assert [clip.wave.parents[1].name for clip in kept] == ["1.0"] * 2 + ["2.0"] * 4


def test_a_voice_is_trained_from_the_first_weights_and_scored_beside_them() -> None:
    first, ours, *means = measure()
    assert (first["program"], ours["program"], first["steps"]) == ("first weights", "fp32", 0)
    assert ours["steps"] == ours["clips"] * ours["total_epochs"]
    assert first["scores"] != ours["scores"]
    assert {"eval/mel", "eval/mel_posterior", "kl"} <= first["scores"].keys() & ours["scores"].keys()
    assert [line["mean"] for line in means] == [first["scores"], ours["scores"]]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHECKOUT is None, reason="RVC_WEBUI names no checkout of RVC WebUI")
def test_rvc_webui_trains_beside_it_for_as_many_steps_and_is_scored_alike() -> None:
    assert CHECKOUT is not None
    python = os.environ.get("RVC_WEBUI_PYTHON", sys.executable)
    first, theirs, ours, *means = measure("--reference", CHECKOUT, "--reference-python", python, timeout=1700)
    assert (theirs["program"], theirs["steps"]) == ("reference", ours["steps"])
    assert theirs["scores"].keys() == ours["scores"].keys()
    assert abs(ours["scores"]["eval/mel"] - theirs["scores"]["eval/mel"]) < 0.2 * first["scores"]["eval/mel"]
    assert "minus_reference" in means[-1]
