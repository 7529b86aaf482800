"""The GPU benchmark runs on a CPU with small models, and exits with a message when there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.long
def test_each_thing_that_is_measured_on_a_gpu_is_measured_on_a_cpu_in_small() -> None:
    done = bench("--tiny", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == [
        "training step on a GPU",
        "training step on a GPU without graphs",
        "most memory in training",
        *(f"loss/{name}" for name in ("disc", "gen", "fm", "mel", "kl")),
        "recordings to voice",
    ]
    assert all(
        line.keys() == {"name", "ours", "reference", "ratio", "unit", "device", "notes"} for line in lines.values()
    )
    # First step of models from one seed: the discriminator loss hardly depends on the segments.
    assert 0.98 < lines["loss/disc"]["ratio"] < 1.02
    assert "train" in lines["recordings to voice"]["notes"]


def test_a_machine_without_a_gpu_is_told_so_in_a_sentence() -> None:
    done = bench()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "make bench-gpu needs a CUDA device, and PyTorch finds none on this machine.\n"
