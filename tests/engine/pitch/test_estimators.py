"""Every estimator gives the right pitch at the right time."""

import importlib.util
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rvc_engine.audio.reading import read_mono
from rvc_engine.audio.recordings import list_recordings
from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.pitch.estimators import PitchEstimator, create_estimator
from rvc_engine.pitch.names import PUBLISHED_WEIGHTS
from rvc_engine.weights.catalogue import Weights

RATE = 16_000
SAMPLES = Path(__file__).parents[3] / "samples"
SHARED_VOICES = Path(__file__).parents[4] / "shared/data/voices"


def is_available(name: EstimatorName) -> bool:
    """Whether this machine has the estimator's weights or package. The models are tested apart, on random weights."""
    weights = Weights(default_weights_folder())
    if name in PUBLISHED_WEIGHTS:
        return name != "crepe" and weights.state(weights.files_of(name)[0]) != "missing"  # crepe: 3 s for a second
    return name != "pm" or importlib.util.find_spec("parselmouth") is not None


@pytest.fixture(params=filter(is_available, get_args(EstimatorName)), scope="module")
def estimator(request: pytest.FixtureRequest) -> PitchEstimator:
    return create_estimator(request.param, Machine("cpu", num_threads=1))


def synthesize(hz: np.ndarray) -> np.ndarray:
    """Voice-like sound with the given pitch at each sample."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    sound = sum(np.sin(n * phase) / n * (n * hz < 7000) for n in range(1, 20))
    noise = np.random.default_rng(0).standard_normal(len(hz))
    return (0.2 * sound + 1e-3 * noise).astype(np.float32)


def cents(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(one / other)


@pytest.mark.parametrize("hz", [80.0, 220.0, 440.0, 800.0])
def test_a_steady_tone_is_found_within_20_cents(estimator: PitchEstimator, hz: float) -> None:
    (curve,) = estimator.estimate([synthesize(np.full(RATE, hz))])
    inner = curve[10:-10]
    assert (inner > 0).all()
    assert np.abs(cents(inner, np.full_like(inner, hz))).max() < 20


@pytest.mark.parametrize("direction", [1, -1])
def test_a_glide_is_found_at_its_time(estimator: PitchEstimator, direction: int) -> None:
    """Two octaves a second: half a frame (5 ms) of shift would be 12 cents, one frame of 16 ms 38 cents."""
    times = np.arange(RATE) / RATE
    hz = 110 * 4.0 ** (times if direction > 0 else 1 - times)
    (curve,) = estimator.estimate([synthesize(hz)])
    truth = hz[::160]
    inner = slice(15, 85)
    assert (curve[inner] > 0).all()
    shift_ms = np.median(cents(curve[inner], truth[inner])) / 2400 * 1000 * direction
    assert abs(shift_ms) < (3.5 if estimator.name.startswith("crepe") else 2.5)  # CREPE is 2 ms early


def test_a_note_starts_and_ends_at_its_time(estimator: PitchEstimator) -> None:
    pause = np.zeros(RATE // 2, np.float32)
    sound = np.concatenate([pause, synthesize(np.full(RATE, 200.0)), pause])
    (curve,) = estimator.estimate([sound])
    voiced = np.flatnonzero(curve)
    # Harvest extends its curves over soft ends.
    slack = 12 if estimator.name == "harvest" else 4
    assert abs(voiced[0] - 50) <= slack
    assert abs(voiced[-1] - 150) <= slack


def test_silence_is_unvoiced(estimator: PitchEstimator) -> None:
    (curve,) = estimator.estimate([np.zeros(RATE, np.float32)])
    assert not curve.any()


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 161, 319, 320, 480, 1000, 16_001])
def test_there_is_one_frame_per_10_milliseconds(estimator: PitchEstimator, num_samples: int) -> None:
    (curve,) = estimator.estimate([synthesize(np.full(16_001, 200.0))[:num_samples]])
    assert curve.shape == (num_samples // 160,)
    assert np.isfinite(curve).all()


def test_a_batch_of_any_lengths_gives_what_single_clips_give(estimator: PitchEstimator) -> None:
    clips = [synthesize(np.full(n, 150.0 + n / 100)) for n in (8_000, 12_345, 3_000)]
    together = estimator.estimate(clips)
    for clip, curve in zip(clips, together, strict=True):
        assert np.array_equal(estimator.estimate([clip])[0], curve)


def test_a_pitch_outside_50_to_1100_hz_is_never_given(estimator: PitchEstimator) -> None:
    (curve,) = estimator.estimate([synthesize(np.full(RATE, 1500.0))])
    assert ((curve == 0) | ((curve >= 50) & (curve <= 1100))).all()


def real_voices() -> list[Path]:
    return [SAMPLES, *(folder for folder in [SHARED_VOICES / "be_f_44k"] if folder.is_dir())]


@pytest.mark.parametrize("folder", real_voices(), ids=lambda folder: folder.name)
@pytest.mark.parametrize("other", ["dio", "harvest"])
def test_on_real_voices_swift_agrees_with_the_estimators_that_use_no_net(folder: Path, other: EstimatorName) -> None:
    recordings = [recording for recording in list_recordings(folder) if recording.path.suffix != ".md"]
    waves = [read_mono(recording.path, RATE) for recording in recordings[10:13]]
    ours = np.concatenate(create_estimator("swift", Machine(num_threads=1)).estimate(waves))
    theirs = np.concatenate(create_estimator(other, Machine()).estimate(waves))
    both = (ours > 0) & (theirs > 0)
    assert both.mean() > 0.2
    assert (np.abs(cents(ours[both], theirs[both])) < 50).mean() > 0.85

    def distance(shift: int) -> float:
        moved = np.roll(ours, shift)
        voiced = (moved > 0) & (theirs > 0)
        return float(np.minimum(np.abs(cents(moved[voiced], theirs[voiced])), 100).mean())

    assert min(range(-3, 4), key=distance) == 0
