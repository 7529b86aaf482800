"""Retention of saves, and that nothing else is ever deleted."""

import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from rvc_engine.checkpoints.retention import Save, SaveRegistry
from rvc_engine.config import TrainingConfig
from rvc_engine.workspace.checksum import sha256_of

SCORES = {10: 30.0, 20: 25.0, 30: 40.0, 40: 26.0, 50: 35.0}


def save_all(root: Path, steps: list[int], **config: object) -> list[int]:
    """Add saves one by one; returns the steps whose files are left."""
    kept = SaveRegistry(root)
    for step in steps:
        files = [f"G_{step}.pth", f"D_{step}.pth", f"weights/anna_e{step}_s{step}.pth"]
        for name in files:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
        config_now = TrainingConfig.model_validate(config)
        kept.add(Save(step=step, epoch=step, files=files), config_now, lambda step: SCORES.get(step, math.inf))
        assert all((root / name).exists() for name in files), "the newest always stays"
    left = sorted(int(path.stem[2:]) for path in root.glob("G_*.pth"))
    assert left == sorted(int(path.stem[2:]) for path in root.glob("D_*.pth"))
    assert left == sorted(int(path.stem.rpartition("_s")[2]) for path in (root / "weights").glob("*.pth"))
    assert sorted(save.step for save in kept.all()) == left
    return left


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ({}, [10, 20, 30, 40, 50]),
        ({"keep_saves": "latest"}, [50]),
        ({"keep_saves": "best", "num_best_saves": 2}, [20, 40, 50]),
        ({"keep_saves": "best", "num_best_saves": 1}, [20, 50]),
        ({"keep_saves": "best"}, [10, 20, 40, 50]),
    ],
)
def test_the_configured_saves_stay(tmp_path: Path, config: dict[str, object], left: list[int]) -> None:
    assert save_all(tmp_path, [10, 20, 30, 40, 50], **config) == left


def test_of_saves_without_a_score_the_newest_stay(tmp_path: Path) -> None:
    assert save_all(tmp_path, [60, 20, 70, 80, 90], keep_saves="best", num_best_saves=2) == [20, 90]


def test_files_that_this_run_did_not_save_are_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("G_1000.pth", "D_1000.pth", "G_2333333.pth", "recovery/step_000000010.pt")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    kept = SaveRegistry(tmp_path)
    config = TrainingConfig(keep_saves="latest")
    for step in (10, 20):
        (tmp_path / f"G_{step}.pth").touch()
        kept.add(Save(step=step, epoch=1, files=[f"G_{step}.pth"]), config, lambda _: 0)
    assert not (tmp_path / "G_10.pth").exists()
    assert all(path.exists() for path in others)


def test_a_pair_that_another_program_has_replaced_is_not_this_runs_any_more(tmp_path: Path) -> None:
    kept, config = SaveRegistry(tmp_path), TrainingConfig(keep_saves="latest")
    (tmp_path / "weights").mkdir()
    for step in (10, 20, 30):
        files = [f"G_{step}.pth", f"D_{step}.pth", f"weights/anna_e{step}_s{step}.pth"]
        for name in files:
            (tmp_path / name).write_text(name)
        kept.claim(sha256_of(tmp_path / f"G_{step}.pth"))
        kept.add(Save(step=step, epoch=step, files=files), config, lambda _: 0)
        generator = tmp_path / f"G_{step}.pth"
        os.utime(generator, (1e9, 1e9))  # the folder was copied
        assert kept.is_own(generator)
        if step == 20:  # RVC WebUI resumed from it
            generator.write_text("theirs")
            assert not kept.is_own(generator)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"saves.json", "G_20.pth", "D_20.pth", "G_30.pth", "D_30.pth", "weights/anna_e30_s30.pth"}


def test_a_save_done_again_counts_once(tmp_path: Path) -> None:
    assert save_all(tmp_path, [10, 20, 10, 20], keep_saves="best", num_best_saves=1) == [20]


def test_the_best_cannot_be_kept_without_evaluation() -> None:
    with pytest.raises(ValidationError, match="evaluate=auto"):
        TrainingConfig(keep_saves="best", evaluate="never")
