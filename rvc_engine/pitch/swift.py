"""SwiftF0: a small convolutional net whose weights come in its package (Nieradzik, "SwiftF0", 2025; MIT)."""

from collections.abc import Sequence

import numpy as np
import swift_f0
from numpy.typing import NDArray

from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, SAMPLE_RATE, fit_length, num_frames

VOICED_CONFIDENCE = 0.5
"""The net's confidence is calibrated so that a frame is voiced from here on."""
MAX_GLIDE_SEMITONES = 4.0
"""Neighbouring frames (16 ms) further apart than this are a jump, not a glide: nothing lies between them."""
_NUM_THREADS = 2


class SwiftEstimator:
    """Frames every 16 ms on the CPU, brought to every 10 ms."""

    name = "swift"
    batch_size = 8

    def __init__(self, num_threads: int | None = None) -> None:
        # Sleeping threads: a pool that spins between clips takes the cores of whoever shares the machine.
        self._detector = swift_f0.SwiftF0(threads=min(num_threads or _NUM_THREADS, _NUM_THREADS), spin=False)

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._one(wave) for wave in waves_16k]

    def _one(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        length = num_frames(len(wave))
        if not length:
            return np.zeros(0)
        result = self._detector.detect(wave, SAMPLE_RATE, fmin=MIN_HZ, fmax=MAX_HZ)
        hz = np.where(result.confidence >= VOICED_CONFIDENCE, result.pitch_hz, 0.0)
        times = np.arange(length, dtype=np.float64) * (HOP_LENGTH / SAMPLE_RATE)
        return fit_length(resample_curve(hz, result.timestamps, times), length)


def resample_curve(hz: NDArray[np.float64], at: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve known at the rising times `at` (seconds), told at `times`: (len(times),).

    A time is voiced when the nearest known frame is. Between two voiced frames pitch moves linearly in semitones,
    unless they are a jump apart; beside an unvoiced frame the voiced one's pitch is held.
    """
    after = np.searchsorted(at, times).clip(0, len(at) - 1)
    before = (after - 1).clip(0)
    gap = at[after] - at[before]
    share = np.where(gap > 0, (times - at[before]) / np.where(gap > 0, gap, 1.0), 1.0).clip(0, 1)
    nearest = np.where(share < 0.5, before, after)
    log_hz = np.log2(hz, where=hz > 0, out=np.zeros_like(hz))
    rise = log_hz[after] - log_hz[before]
    is_glide = (hz[before] > 0) & (hz[after] > 0) & (np.abs(rise) * 12 <= MAX_GLIDE_SEMITONES)
    return np.where(is_glide, np.exp2(log_hz[before] + share * rise), hz[nearest])
