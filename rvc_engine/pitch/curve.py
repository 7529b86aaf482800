"""Pitch curves: what every estimator gives and what the nets take. Numbers as in the reference (FORMATS)."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
HOP_LENGTH = 160
"""Samples between frames: 10 ms. Frame k tells the pitch at sample k * HOP_LENGTH."""
MIN_HZ = 50.0
MAX_HZ = 1100.0
NUM_BINS = 255
"""Coarse bins are 1..255; bin 1 also stands for unvoiced."""


def num_frames(num_samples: int) -> int:
    """Frames of a clip of so many samples at 16 kHz."""
    return num_samples // HOP_LENGTH


def coarse_pitch(hz: NDArray[np.floating]) -> NDArray[np.int64]:
    """Pitch in Hz to its coarse bin: linear on the mel scale from 50 Hz (1) to 1100 Hz (255), clipped and rounded."""
    low, high, mel = (1127 * np.log1p(np.asarray(value, np.float64) / 700) for value in (MIN_HZ, MAX_HZ, hz))
    bins = 1 + (mel - low) * (NUM_BINS - 1) / (high - low)
    rounded: NDArray[np.float64] = np.rint(np.clip(bins, 1, NUM_BINS))
    return rounded.astype(np.int64)


def interpolate_unvoiced(hz: NDArray[np.floating]) -> NDArray[np.float64]:
    """The curve with its unvoiced frames (0 Hz) filled linearly between the voiced ones around them.

    Before the first and after the last voiced frame their pitch is held. Without any voiced frame all stays 0.
    """
    hz = np.asarray(hz, np.float64)
    voiced = np.flatnonzero(hz > 0)
    if not len(voiced):
        return np.zeros_like(hz)
    filled: NDArray[np.float64] = np.interp(np.arange(len(hz)), voiced, hz[voiced])
    return filled


def fit_length(hz: NDArray[np.floating], length: int) -> NDArray[np.float64]:
    """The curve cut, or lengthened by unvoiced frames, to `length` frames; out-of-range and odd values are unvoiced."""
    hz = np.asarray(hz[:length], np.float64)
    hz = np.where((hz >= MIN_HZ) & (hz <= MAX_HZ), hz, 0.0)  # NaN compares as False
    return np.pad(hz, (0, length - len(hz)))
