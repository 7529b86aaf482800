"""Plain preprocessing, the baseline of the benchmark, gives the same results as ours: it does the same work."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks import preparation
from rvc_engine.audio.reading import read_mono
from rvc_engine.workspace.layout import Workspace


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two of the samples."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for path in sorted(preparation.SAMPLES.glob("*.*"))[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def hubert(tmp_path: Path) -> Path:
    """A small HuBERT with the feature size of a voice."""
    torch.manual_seed(0)
    config = transformers.HubertConfig(num_hidden_layers=1, intermediate_size=96, conv_dim=(32,) * 7)
    transformers.HubertModel(config).save_pretrained(tmp_path / "hubert")
    return tmp_path / "hubert"


def test_both_ways_give_the_same(
    recordings: Path, hubert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_decoded", read_mono)  # the program ffmpeg is not everywhere
    ours = preparation.prepare(recordings, tmp_path / "ours", "swift", hubert)
    plain = preparation.prepare_plainly(recordings, tmp_path / "plain", hubert)
    assert ours.keys() == plain.keys() == {"slice", "pitch", "content"}
    assert min(*ours.values(), *plain.values()) > 0
    workspaces = [Workspace(tmp_path / name, "v") for name in ("ours", "plain")]
    differences = preparation.describe_differences(*workspaces)
    values = {stage: float(re.findall(r"\d\.\d\S*", text)[-1]) for stage, text in differences.items()}
    assert values["slice"] < 1e-6
    assert values["pitch"] < 1e-3
    assert values["content"] > 0.999


def test_results_that_differ_are_told(recordings: Path, hubert: Path, tmp_path: Path) -> None:
    preparation.prepare(recordings, tmp_path / "ours", "swift", hubert)
    shutil.copytree(tmp_path / "ours", tmp_path / "other")
    next((tmp_path / "other" / "0_gt_wavs").iterdir()).unlink()
    with pytest.raises(AssertionError, match="different slices"):
        preparation.describe_differences(Workspace(tmp_path / "ours", "v"), Workspace(tmp_path / "other", "v"))
