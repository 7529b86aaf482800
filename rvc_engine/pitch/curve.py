"""Pitch curves: from an estimator's output to the inputs of the models. Numbers as in the reference (FORMATS)."""

import numpy as np
from numpy.typing import NDArray

HOP_LENGTH = 160
"""Samples between frames: 10 ms. Frame k is the pitch at sample k * HOP_LENGTH."""
MIN_HZ = 50.0
MAX_HZ = 1100.0
NUM_BINS = 255
"""Coarse bins are 1..255; bin 1 also stands for unvoiced."""
MAX_GLIDE_SEMITONES = 4.0
"""Neighbouring voiced frames further apart than this are a jump, not a glide, and are not interpolated."""


def num_frames(num_samples: int) -> int:
    """Number of frames of a clip of `num_samples` at 16 kHz."""
    return num_samples // HOP_LENGTH


def coarse_pitch(hz: NDArray[np.floating]) -> NDArray[np.int64]:
    """Coarse bin of a pitch in Hz: linear on the mel scale from 50 Hz (1) to 1100 Hz (255), clipped and rounded."""
    low, high, mel = (1127 * np.log1p(np.asarray(value, np.float64) / 700) for value in (MIN_HZ, MAX_HZ, hz))
    bins = 1 + (mel - low) * (NUM_BINS - 1) / (high - low)
    rounded: NDArray[np.float64] = np.rint(np.clip(bins, 1, NUM_BINS))
    return rounded.astype(np.int64)


def interpolate_unvoiced(hz: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fill the unvoiced frames (0 Hz) of a curve (T,) linearly between the voiced ones around them.

    The pitch of the first and last voiced frame is held outwards. Without any voiced frame all values stay 0.
    """
    hz = np.asarray(hz, np.float64)
    voiced = np.flatnonzero(hz > 0)
    if not len(voiced):
        return np.zeros_like(hz)
    filled: NDArray[np.float64] = np.interp(np.arange(len(hz)), voiced, hz[voiced])
    return filled


def fit_length(hz: NDArray[np.floating], length: int) -> NDArray[np.float64]:
    """Cut or pad a curve with unvoiced frames to (length,); values out of range and NaN become unvoiced."""
    hz = np.asarray(hz[:length], np.float64)
    hz = np.where((hz >= MIN_HZ) & (hz <= MAX_HZ), hz, 0.0)  # NaN compares as False
    return np.pad(hz, (0, length - len(hz)))


def resample_curve(hz: NDArray[np.float64], at: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resample a curve from the rising times `at` to `times`, both in seconds: (len(at),) to (len(times),).

    A time is voiced when the nearest frame of the input is. Between two voiced frames the pitch is interpolated
    linearly in semitones, unless they are a jump apart; beside an unvoiced frame the voiced one's pitch is held.
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
