"""The benchmark of the choice of the F0 estimator measures errors that it ought to."""

import numpy as np
import pytest

from benchmarks import pitch_choice
from benchmarks.pitch_estimators import read_waves
from benchmarks.put_aside import SAMPLES
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.swift import SwiftEstimator


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    return [read_waves(SAMPLES, 1)[0][: 2 * ANALYSIS_SAMPLE_RATE]]


def test_speech_made_with_known_f0_has_that_f0(waves: list[np.ndarray]) -> None:
    found = pitch_choice.compare_with_known(SwiftEstimator(1), waves)
    assert found["accuracy"] > 0.8
    assert found["gross"] < 0.1
    assert found["cents"] < 15
    assert found["as_used"] > 0.85


def test_an_octave_and_a_shift_in_time_are_errors() -> None:
    truth = np.repeat([0.0, 200.0, 0.0], 50)
    everywhere = np.ones_like(truth)
    assert pitch_choice.errors([(truth, truth, everywhere)]) == {
        "accuracy": 1, "found": 1, "false_alarms": 0, "gross": 0, "cents": 0, "as_used": 1
    }  # fmt: skip
    octave = pitch_choice.errors([(2 * truth, truth, everywhere), (truth, truth, everywhere)])
    assert (octave["gross"], octave["found"], octave["as_used"]) == (0.5, 1, 0.5)
    late = pitch_choice.errors([(np.roll(truth, 10), truth, everywhere)])
    assert (late["found"], late["false_alarms"], late["as_used"]) == (0.8, 0.1, 1)  # the gap is filled from beside it
    assert late["accuracy"] == pytest.approx(130 / 150)


@pytest.mark.parametrize("snr", pitch_choice.SNRS_DB)
def test_noise_has_its_level(waves: list[np.ndarray], snr: int) -> None:
    (wave,) = waves
    noise = pitch_choice.with_noise(wave, snr) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
