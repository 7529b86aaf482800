"""Silences are found from levels, and nothing loud is ever cut out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvc_engine.audio.selection import pieces
from rvc_engine.audio.silence import MAX_KEPT, THRESHOLD, Levels, loud_spans

HOP = 600

runs = st.lists(st.tuples(st.booleans(), st.integers(1, 150)), min_size=1, max_size=12)


def frames_of(plan: list[tuple[bool, int]], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate(
        [THRESHOLD * (random.uniform(1, 10, n) if is_loud else random.uniform(0, 0.99, n)) for is_loud, n in plan]
    )


@given(st.integers(1, 5000), st.integers(1, 700), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_levels_are_the_same_whatever_the_blocks(num_samples: int, block: int, seed: int) -> None:
    sound = np.random.default_rng(seed).standard_normal(num_samples)
    levels = Levels(8_000)  # hop 120, window 480
    for start in range(0, num_samples, block):
        levels.add(sound[start : start + block])
    padded = np.pad(sound, (240, 600))
    expected = [np.sqrt(np.mean(padded[k * 120 : k * 120 + 480] ** 2)) for k in range(1 + num_samples // 120)]
    assert np.allclose(levels.rms(), expected)


@given(runs, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_no_loud_frame_is_cut_out_and_spans_follow_each_other(plan: list[tuple[bool, int]], seed: int) -> None:
    rms = frames_of(plan, seed)
    num_samples = (len(rms) - 1) * HOP + 17
    spans = list(loud_spans(rms, num_samples, HOP))
    covered = np.zeros(len(rms), bool)
    before = 0
    for start, end in spans:
        assert before <= start < end <= num_samples
        before = end
        covered[start // HOP : -(-end // HOP)] = True
    assert covered[rms >= THRESHOLD].all()


@given(runs, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_span_has_little_silence_at_its_ends(plan: list[tuple[bool, int]], seed: int) -> None:
    rms = frames_of([(True, 101), *plan, (True, 101)], seed)  # too long for the rule for short recordings
    for start, end in loud_spans(rms, len(rms) * HOP, HOP):
        loud = np.flatnonzero(rms[start // HOP : end // HOP] >= THRESHOLD)
        assert len(loud)
        # A silence after less than 1.5 s since the last cut stays whole; it cannot stand at the start.
        assert loud[0] <= MAX_KEPT


def test_a_short_recording_is_never_cut() -> None:
    rms = frames_of([(False, 40), (True, 20), (False, 40)], 0)
    assert list(loud_spans(rms, 99 * HOP, HOP)) == [(0, 99 * HOP)]


def test_a_pause_of_half_a_second_cuts_and_one_of_a_third_does_not() -> None:
    def count(frames: int) -> int:
        rms = frames_of([(True, 120), (False, frames), (True, 120)], 0)
        return len(list(loud_spans(rms, len(rms) * HOP, HOP)))

    assert count(34) == 2
    assert count(26) == 1


@given(st.integers(0, 10**7), st.integers(1, 2_000_000), st.sampled_from([32_000, 40_000, 48_000]))
@settings(max_examples=200, deadline=None)
def test_pieces_cover_a_span_with_overlaps_and_none_is_over_four_seconds(start: int, length: int, rate: int) -> None:
    cut = list(pieces(start, start + length, rate))
    assert cut[0][0] == start
    assert cut[-1][1] == start + length
    assert all(end - begin == round(3.7 * rate) for begin, end in cut[:-1])
    assert cut[-1][1] - cut[-1][0] <= 4 * rate
    for (_, end), (begin, _) in itertools.pairwise(cut):
        assert end - begin == round(0.3 * rate)


def test_what_remains_up_to_four_seconds_is_one_piece() -> None:
    assert list(pieces(0, 160_000, 40_000)) == [(0, 160_000)]
    assert list(pieces(0, 160_001, 40_000)) == [(0, 148_000), (136_000, 160_001)]


@pytest.mark.parametrize("rate", [8_000, 32_000, 40_000, 44_100, 48_000])
def test_time_above_the_threshold_is_measured_in_seconds(rate: int) -> None:
    levels = Levels(rate)
    levels.add(np.concatenate([np.full(rate, 0.1), np.zeros(rate)]))
    assert levels.sound_seconds() == pytest.approx(1.0, abs=0.05)
