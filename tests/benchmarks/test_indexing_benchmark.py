"""The index benchmark, at a small size."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.indexing", *map(str, arguments)]
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_ours_and_the_plain_way_are_told_side_by_side(tmp_path: Path) -> None:
    """scikit-learn is used for large sets only; here an empty package is enough to count as installed."""
    (tmp_path / "sklearn").mkdir()
    for name in ("__init__", "cluster"):
        (tmp_path / "sklearn" / f"{name}.py").touch()
    done = bench("--rows", 2000, path=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    for way in ("ours", "reference"):
        assert 0.2 < lines["index, recall@1"][way] <= 1
        assert 2000 / 51 < lines["index, vectors compared in a search"][way] < 200  # of 51 lists, some longer
        assert lines["index"][way] > 0


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is not None, reason="the plain method would run too")
def test_without_scikit_learn_it_says_so_and_measures_ours_alone(tmp_path: Path) -> None:
    for clip in range(4):
        np.save(tmp_path / f"{clip}.npy", np.random.default_rng(clip).standard_normal((200, 768), dtype=np.float32))
    done = bench("--features", tmp_path, "--rows", 500)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "scikit-learn is not installed" in done.stderr
    assert "ours alone: " in done.stderr


def test_too_few_features_are_told_in_a_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((200, 768), np.float32))
    done = bench("--features", tmp_path, "--rows", 500)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{tmp_path} has 200 rows, fewer than the 500 of --rows"
