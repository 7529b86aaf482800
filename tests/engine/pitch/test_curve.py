"""Pitch curves: filled gaps, bins, and resampling to another frame rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvc_engine.pitch.curve import coarse_pitch, fit_length, interpolate_unvoiced, resample_curve

curves = st.lists(st.one_of(st.just(0.0), st.floats(50, 1100)), max_size=60).map(np.array)


def test_gaps_are_filled_linearly_and_the_ends_are_held() -> None:
    curve = np.array([0, 0, 100, 0, 0, 0, 200, 150, 0])
    assert interpolate_unvoiced(curve).tolist() == [100, 100, 100, 125, 150, 175, 200, 150, 150]


def test_a_curve_without_voice_stays_zero() -> None:
    assert interpolate_unvoiced(np.zeros(5)).tolist() == [0] * 5
    assert coarse_pitch(np.zeros(5)).tolist() == [1] * 5
    assert len(interpolate_unvoiced(np.zeros(0))) == 0


@given(curves)
def test_filling_leaves_voiced_frames_alone_and_stays_within_them(curve: np.ndarray) -> None:
    filled = interpolate_unvoiced(curve)
    assert (filled[curve > 0] == curve[curve > 0]).all()
    if (curve > 0).any():
        assert filled.min() >= curve[curve > 0].min() * (1 - 1e-12)
        assert filled.max() <= curve[curve > 0].max() * (1 + 1e-12)


@given(st.lists(st.floats(0, 5000), min_size=1).map(np.array))
def test_bins_are_whole_numbers_from_1_to_255_that_rise_with_pitch(hz: np.ndarray) -> None:
    bins = coarse_pitch(np.sort(hz))
    assert bins.dtype == np.int64
    assert (bins >= 1).all()
    assert (bins <= 255).all()
    assert (np.diff(bins) >= 0).all()


def test_a_curve_is_fitted_to_its_length_and_range() -> None:
    assert fit_length(np.array([100, 20, 2000, np.nan, 300]), 7).tolist() == [100, 0, 0, 0, 300, 0, 0]
    assert fit_length(np.array([100, 200, 300]), 2).tolist() == [100, 200]


def test_a_glide_keeps_its_times_from_16_to_10_milliseconds() -> None:
    at = np.arange(100) * 0.016
    times = np.arange(150) * 0.010
    glide = 100 * 2**at
    assert np.allclose(resample_curve(glide, at, times), 100 * 2**times)


def test_a_jump_is_not_smeared_and_voicing_is_that_of_the_nearest_frame() -> None:
    at = np.arange(4) * 0.016
    times = np.arange(5) * 0.010  # 0, 10, 20, 30, 40 ms; frames at 0, 16, 32, 48 ms
    assert resample_curve(np.array([100.0, 200, 200, 200]), at, times) == pytest.approx([100, 200, 200, 200, 200])
    assert resample_curve(np.array([100.0, 0, 0, 100]), at, times)[:4] == pytest.approx([100, 0, 0, 0])
    assert resample_curve(np.array([0.0, 100, 100, 0]), at, times)[[0, 1, 2, 3]] == pytest.approx([0, 100, 100, 100])


@pytest.mark.parametrize("count", [1, 2])
def test_times_beyond_the_last_frame_hold_it(count: int) -> None:
    at = np.arange(count) * 0.016
    assert resample_curve(np.full(count, 120.0), at, np.arange(6) * 0.01) == pytest.approx([120] * 6)
