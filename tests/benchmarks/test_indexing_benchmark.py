"""The index benchmark, in small."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.indexing", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is not None, reason="the plain way would take its turn")
def test_without_scikit_learn_it_says_so_and_measures_ours_alone(tmp_path: Path) -> None:
    for clip in range(4):
        np.save(tmp_path / f"{clip}.npy", np.random.default_rng(clip).standard_normal((200, 768), dtype=np.float32))
    done = bench("--features", tmp_path, "--rows", 500)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "scikit-learn is not here" in done.stderr
    assert "ours alone: " in done.stderr


def test_too_few_features_are_told_in_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((200, 768), np.float32))
    done = bench("--features", tmp_path, "--rows", 500)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{tmp_path} holds 200 rows, and 500 are asked for"
