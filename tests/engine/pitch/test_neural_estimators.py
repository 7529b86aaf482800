"""Neural estimators: clips in batches, long clips in windows, published files, missing weights.

Their weights are random (small, seeded models), so their pitches mean nothing; agreement with the reference is tested
in tests/engine/pitch/test_golden_pitch_models.py.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import GpuOutOfMemory, IncompatibleCheckpoint, InvalidConfig, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights
from rvc_engine.pitch.estimators import PitchEstimator, create_estimator
from rvc_engine.pitch.neural.crepe import CrepeEstimator, windows_that_fit
from rvc_engine.pitch.neural.crepe_model import Crepe
from rvc_engine.pitch.neural.fcpe import FcpeEstimator
from rvc_engine.pitch.neural.fcpe_model import Fcpe
from rvc_engine.pitch.neural.published import load_published
from rvc_engine.pitch.neural.rmvpe import RmvpeEstimator
from rvc_engine.pitch.neural.rmvpe_model import Rmvpe, log_mel
from rvc_engine.pitch.neural.salience import CENTS, NUM_BINS, salience_from_mels, salience_to_hz
from rvc_engine.pitch.neural.viterbi import viterbi_path
from rvc_engine.weights.catalogue import PublishedFile

CPU = torch.device("cpu")
RATE = 16_000


def random_estimator(name: str) -> PitchEstimator:
    torch.manual_seed(5)
    if name == "rmvpe":
        return RmvpeEstimator(Rmvpe(width=2), CPU)
    if name == "fcpe":
        model = Fcpe()
        model.cent_table.copy_(torch.from_numpy(CENTS))
        return FcpeEstimator(model, CPU)
    return CrepeEstimator(Crepe("crepe-tiny"), CPU)


@pytest.fixture(params=["rmvpe", "fcpe", "crepe-tiny"], scope="module")
def estimator(request: pytest.FixtureRequest) -> PitchEstimator:
    return random_estimator(request.param)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 161, 319, 512, 513, 1000, 5_121])
def test_there_is_one_frame_per_10_milliseconds_of_clips_however_short(
    estimator: PitchEstimator, num_samples: int
) -> None:
    (curve,) = estimator.estimate([noise(num_samples)])
    assert curve.shape == (num_samples // 160,)
    assert ((curve == 0) | ((curve >= 50) & (curve <= 1100))).all()


def test_the_curve_of_a_clip_does_not_depend_on_the_others_in_the_batch(estimator: PitchEstimator) -> None:
    clips = [noise(n, seed) for seed, n in enumerate((8_000, 8_000, 7_950, 3_200, 8_000))]
    together = estimator.estimate(clips)
    for clip, curve in zip(clips, together, strict=True):
        (alone,) = estimator.estimate([clip])
        assert np.array_equal(alone > 0, curve > 0)
        assert np.allclose(alone, curve, rtol=1e-4)
    assert not np.array_equal(together[0], together[1])


class Recording(nn.Module):
    """Model that finds the bin named by the mel's first channel, and records the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int]] = []

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        self.shapes.append((mel.shape[0], mel.shape[2]))
        return nn.functional.one_hot(mel[:, 0].long(), NUM_BINS).float()


def predicted_bins(model: Recording, *lengths: int, **sizes: int) -> list[np.ndarray]:
    mels = [torch.arange(length).remainder(NUM_BINS).float()[None].repeat(3, 1) for length in lengths]
    return [rows.argmax(axis=1) for rows in salience_from_mels(mels, model, **sizes)]


def test_only_clips_that_come_to_the_same_length_share_a_batch() -> None:
    model = Recording()
    found = predicted_bins(model, 40, 64, 70, 33, multiple=32, window_frames=640, batch_frames=128)
    assert model.shapes == [(2, 64), (1, 64), (1, 96)]
    assert [len(bins) for bins in found] == [40, 64, 70, 33]
    assert all(np.array_equal(bins, np.arange(len(bins))) for bins in found)


@pytest.mark.parametrize("length", [1000, 1024, 1025, 1500, 2048, 3333])
def test_a_long_clip_is_processed_in_windows_without_gaps(length: int) -> None:
    model = Recording()
    [bins] = predicted_bins(model, length, multiple=32, window_frames=1024, batch_frames=1024)
    assert {frames for _, frames in model.shapes} == {min(1024, -(-length // 32) * 32)}
    assert np.array_equal(bins, np.arange(length) % NUM_BINS)


def test_windows_give_the_salience_of_the_whole_clip() -> None:
    """The margin of a window is large enough, and it halves the same frames as the whole clip."""
    torch.manual_seed(5)
    model = Rmvpe(width=2).eval()
    mel = log_mel(torch.from_numpy(noise(16 * RATE))[None])[0]
    with torch.inference_mode():
        [whole], [pieces] = (
            salience_from_mels([mel], model, multiple=32, window_frames=window, batch_frames=6144)
            for window in (6144, 1024)
        )
    assert whole.shape == pieces.shape == (1601, NUM_BINS)
    assert np.abs(whole - pieces).max() < 1e-4
    assert whole.std(axis=0).max() > 1e-3


def test_the_pitch_of_a_frame_is_the_mean_around_its_strongest_bin() -> None:
    salience = np.zeros((4, NUM_BINS), np.float32)
    salience[0, [100, 101]] = 0.5, 0.49
    salience[1, 100], salience[1, 300] = 0.5, 0.4  # far from the strongest: not in the mean
    salience[2, 100] = 0.03  # not above the threshold
    salience[3, 359] = 0.9  # the last bin has neighbours on one side only
    curve = salience_to_hz(salience, CENTS, threshold=0.03)
    hz = 10 * 2 ** (CENTS / 1200)
    assert curve[0] == pytest.approx(10 * 2 ** ((CENTS[100] + 20 * 0.49 / 0.99) / 1200))
    assert curve[1:] == pytest.approx([hz[100], 0, hz[359]])
    assert not salience_to_hz(np.zeros((2, NUM_BINS), np.float32), CENTS, threshold=0.03).any()


def test_the_bins_are_20_cents_apart_from_c1_on() -> None:
    assert 10 * 2 ** (CENTS[0] / 1200) == pytest.approx(31.70, abs=0.01)
    assert np.diff(CENTS) == pytest.approx(20)
    assert len(CENTS) == NUM_BINS == 360


def test_the_likeliest_path_passes_over_one_wrong_frame_and_follows_a_glide() -> None:
    probability = np.full((40, 50), 0.01, np.float32)
    glide = np.arange(40) // 2 + 5
    probability[np.arange(40), glide] = 0.5
    probability[20] = 0.01
    probability[20, 45] = 0.5
    path = viterbi_path(probability)
    assert abs(path[20] - glide[20]) <= 1
    assert np.array_equal(np.delete(path, 20), np.delete(glide, 20))
    assert len(viterbi_path(probability[:0])) == 0


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """publish(name, content): write a file of that estimator, listed as published."""

    def write(name: str, content: Any) -> Machine:
        path = tmp_path / name / "net.pt"
        path.parent.mkdir(parents=True)
        torch.save(content, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = PublishedFile(id=name, repo="some/one", path="net.pt", size=path.stat().st_size, sha256=digest)
        monkeypatch.setattr("rvc_engine.weights.catalogue.published_files", lambda: (file,))
        return Machine("cpu", 1, tmp_path)

    return write


def test_a_published_file_in_float16_is_loaded_in_float32(publish: Any) -> None:
    torch.manual_seed(6)
    machine = publish("rmvpe", Rmvpe(width=1).half().state_dict())
    model = Rmvpe(width=1)
    load_published(model, "rmvpe", machine)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    torch.manual_seed(6)
    for (name, found), (_, saved) in zip(model.named_parameters(), Rmvpe(width=1).named_parameters(), strict=True):
        assert torch.allclose(found, saved, rtol=1e-3, atol=1e-4), name


def test_each_estimator_is_made_from_its_published_file(publish: Any) -> None:
    torch.manual_seed(7)
    fcpe = Fcpe()
    fcpe.cent_table.copy_(torch.from_numpy(CENTS))
    wave = noise(RATE // 4)
    expected = FcpeEstimator(fcpe, CPU).estimate([wave])
    machine = publish("fcpe", {"model": fcpe.state_dict(), "config_dict": {}, "global_step": 1})
    assert np.allclose(create_estimator("fcpe", machine).estimate([wave]), expected, rtol=1e-5)


def test_crepes_published_kernels_have_a_second_dimension(publish: Any) -> None:
    torch.manual_seed(8)
    model = Crepe("crepe-tiny")
    published = {name: value[..., None] if value.ndim == 3 else value for name, value in model.state_dict().items()}
    wave = noise(RATE // 4)
    expected = CrepeEstimator(model, CPU).estimate([wave])
    made = create_estimator("crepe-tiny", publish("crepe-tiny", published))
    assert made.name == "crepe-tiny"
    assert np.allclose(made.estimate([wave]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "content",
    [{"weight": torch.zeros(3)}, [1, 2], {"model": 3}, {"conv1.weight": 3}],
    ids=["another model", "a list", "no tensors", "a number"],
)
def test_a_file_of_another_model_is_refused(publish: Any, content: Any) -> None:
    for name in ("crepe-tiny", "fcpe"):
        with pytest.raises(IncompatibleCheckpoint, match=f"model of pitch={name}.*get a new copy"):
            create_estimator(name, publish(name, content))


@pytest.mark.parametrize("name", ["rmvpe", "fcpe", "crepe", "crepe-tiny"])
def test_missing_weights_are_reported_before_any_work_together_with_all_others(name: str, tmp_path: Path) -> None:
    config = TrainingConfig.model_validate({"pitch": name})
    with pytest.raises(MissingWeights) as caught:
        check_weights(config, Machine(weights_folder=tmp_path))
    message = str(caught.value)
    for words in (
        f"the pitch estimator {name} cannot be used, missing in {tmp_path / name}",
        f"rvc-engine weights fetch {name}",
        "pitch=swift",
        "the content encoder ContentVec cannot be used",
        "the base weights cannot be used",
    ):
        assert words in message
    with pytest.raises(MissingWeights, match=f"weights fetch {name}"):
        create_estimator(name, Machine("cpu", weights_folder=tmp_path))


def test_a_run_without_pitch_needs_no_estimator(tmp_path: Path) -> None:
    config = TrainingConfig(f0=False, pitch="rmvpe", content="whisper-tiny", pretrained="none")
    check_weights(config, Machine(weights_folder=tmp_path))


def test_missing_praat_is_reported_with_its_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvc_engine.pitch.names.importlib.util.find_spec", lambda _name: None)
    config = TrainingConfig(pitch="pm", content="whisper-tiny", pretrained="none")
    machine = Machine("cpu", weights_folder=tmp_path)
    for attempt in (check_weights, lambda *_: create_estimator("pm", machine)):
        with pytest.raises(InvalidConfig, match=r"pip install .*\[pm\]'.*GPL-3"):
            attempt(config, machine)


@pytest.mark.parametrize("name", ["fcpe", "crepe-tiny"])
def test_estimators_run_on_the_first_of_the_devices_that_train_together(name: str, publish: Any) -> None:
    torch.manual_seed(9)
    content = {
        "fcpe": lambda: {"model": Fcpe().state_dict()},
        "crepe-tiny": lambda: Crepe("crepe-tiny").state_dict(),
    }[name]()
    machine = replace(publish(name, content), num_processes=2)
    assert create_estimator(name, machine)._device == CPU  # type: ignore[arg-type, attr-defined]


def test_crepes_batches_take_a_quarter_of_the_free_memory() -> None:
    full = Crepe("crepe").window_bytes
    assert [windows_that_fit(full, gib * 2**30) for gib in (1, 4, 8, 12, 80)] == [256, 341, 682, 1024, 4096]
    assert windows_that_fit(Crepe("crepe-tiny").window_bytes, 6 * 2**30) == 4096


def test_too_little_memory_on_the_device_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rvc_engine.pitch import stage as pitch_stage
    from rvc_engine.reporting import StageReport
    from rvc_engine.workspace.layout import Workspace

    class Full:
        name, batch_size, threads_per_call = "rmvpe", 1, None

        def estimate(self, waves: list[np.ndarray]) -> list[np.ndarray]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    import scipy.io.wavfile

    workspace = Workspace(tmp_path / "run", "anna")
    workspace.slices_16k.mkdir(parents=True)
    scipy.io.wavfile.write(workspace.slices_16k / "0_0.wav", RATE, noise(RATE))
    monkeypatch.setattr(pitch_stage, "create_estimator", lambda *_: Full())
    with pytest.raises(GpuOutOfMemory, match="pitch estimator"):
        pitch_stage.run(workspace, TrainingConfig(pitch="rmvpe"), Machine(), StageReport("pitch", lambda _event: None))
