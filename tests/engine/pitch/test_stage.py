"""The pitch stage: a curve in Hz and one in bins for every slice."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import DiskFull, StopRequested
from rvc_engine.machine import Machine
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.pitch.curve import coarse_pitch
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace
from tests.systems import full_device


@pytest.fixture
def slices(workspace: Workspace, voice: Callable[..., np.ndarray]) -> Workspace:
    """A workspace with three slices: two notes around a pause, a hiss, and a very short note."""
    workspace.slices_16k.mkdir()
    pause = np.zeros(3_200, np.float32)
    hiss = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    clips = {
        "0_0.wav": np.concatenate([voice(0.5, 16_000, 150), pause, voice(0.5, 16_000, 200)]),
        "0_1.wav": np.concatenate([np.zeros(16_000, np.float32), 0.001 * hiss]),
        "12_0.wav": voice(0.2, 16_000),
    }
    for name, clip in clips.items():
        scipy.io.wavfile.write(workspace.slices_16k / name, 16_000, clip)
    return workspace


@pytest.mark.parametrize("estimator", ["swift", "dio"])
def test_every_slice_gets_both_curves(slices: Workspace, listener: Any, estimator: str) -> None:
    config = TrainingConfig.model_validate({"pitch": estimator})
    pitch_stage.run(slices, config, Machine(num_threads=1), listener.report("pitch"))
    names = ["0_0.wav.npy", "0_1.wav.npy", "12_0.wav.npy"]
    for folder in (slices.coarse_f0, slices.f0_hz):
        assert sorted(path.name for path in folder.iterdir()) == names
    hz, bins = np.load(slices.f0_hz / names[0]), np.load(slices.coarse_f0 / names[0])
    assert (hz.dtype, bins.dtype) == (np.float64, np.int64)
    assert hz.shape == bins.shape == (120,)
    assert np.array_equal(bins, coarse_pitch(hz))
    assert np.allclose(hz[10:40], 150, rtol=0.02)
    assert np.allclose(hz[80:110], 200, rtol=0.02)
    assert (hz > 0).all()
    assert 160 < hz[60] < 190  # in the pause, on the way from the one note to the other
    assert np.load(slices.f0_hz / names[2]).shape == (20,)
    assert listener.progress[-1] == 1.0


@pytest.fixture
def four_threads() -> Iterator[None]:
    """PyTorch with four threads: so many slices at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("estimator", ["swift", "dio", "harvest"])
def test_slices_at_once_get_the_curves_that_they_get_one_by_one(
    workspace: Workspace, voice: Callable[..., np.ndarray], listener: Any, estimator: str
) -> None:
    workspace.slices_16k.mkdir()
    for n in range(40):
        scipy.io.wavfile.write(workspace.slices_16k / f"0_{n}.wav", 16_000, voice(0.3, 16_000, 100 + 5 * n))
    config = TrainingConfig.model_validate({"pitch": estimator})
    pitch_stage.run(workspace, config, Machine(), listener.report("pitch"))
    at_once = {path.name: np.load(path) for path in workspace.f0_hz.iterdir()}
    torch.set_num_threads(1)
    pitch_stage.run(workspace, config, Machine(num_threads=1), listener.report("pitch"))
    assert len(at_once) == 40
    for path in workspace.f0_hz.iterdir():
        np.testing.assert_allclose(at_once[path.name], np.load(path), rtol=1e-5)


def test_a_slice_without_voice_stays_at_0_hz_and_bin_1(slices: Workspace, listener: Any) -> None:
    pitch_stage.run(slices, TrainingConfig(), Machine(), listener.report("pitch"))
    assert not np.load(slices.f0_hz / "0_1.wav.npy").any()
    assert (np.load(slices.coarse_f0 / "0_1.wav.npy") == 1).all()


def test_recordings_without_any_pitch_give_a_warning(slices: Workspace, listener: Any) -> None:
    for name in ("0_0.wav", "12_0.wav"):
        (slices.slices_16k / name).unlink()
    pitch_stage.run(slices, TrainingConfig(), Machine(), listener.report("pitch"))
    assert "no pitch was found" in listener.warnings[0]


def test_curves_of_an_earlier_run_are_gone(slices: Workspace, listener: Any) -> None:
    for folder in (slices.coarse_f0, slices.f0_hz):
        folder.mkdir()
        (folder / "7_7.wav.npy").touch()
    pitch_stage.run(slices, TrainingConfig(), Machine(), listener.report("pitch"))
    assert not (slices.f0_hz / "7_7.wav.npy").exists()
    assert not (slices.coarse_f0 / "7_7.wav.npy").exists()


def test_a_stop_ends_the_stage(slices: Workspace, listener: Any) -> None:
    listener.is_stopping = True
    with pytest.raises(StopRequested):
        pitch_stage.run(slices, TrainingConfig(), Machine(), listener.report("pitch"))


@full_device
def test_a_full_disk_is_reported(slices: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(DiskFull, match="free some space"):
        pitch_stage.run(slices, TrainingConfig(), Machine(), StageReport("pitch", lambda event: None))
