"""The benchmark of defaults trains with what each choice says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.choices import gaps
from rvc_engine.pitch import stage

ROOT = Path(__file__).parents[2]


def test_curves_are_written_with_gaps_of_each_kind() -> None:
    curve = np.array([100.0, 0.0, 120.0])
    for choice, expected in {"interpolated": 110, "zero": 0}.items():
        with gaps(choice):
            assert stage.interpolate_unvoiced(curve)[1] == expected
    assert stage.interpolate_unvoiced(curve)[1] == 110


@pytest.mark.long
def test_voices_of_each_choice_are_trained_and_scored() -> None:
    command = [sys.executable, "-m", "benchmarks.choices", "--seconds", "20", "--seeds", "1", "--epochs", "1"]
    command += ["--batch-sizes", "2", "--pitch", "dio"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    voices = [line for line in lines if "source" in line]
    assert [(line["part"], line["choice"]) for line in voices] == [
        ("gaps", "interpolated"),
        ("gaps", "zero"),
        ("batch_size", "2"),
    ]
    assert voices[0]["eval/mel"] != voices[1]["eval/mel"]
    assert len(lines) == 6, "a line of means for each choice"
