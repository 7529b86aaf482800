"""The 48 Hz high-pass of slicing, for the report: streaming, by FFT, without scipy, whose import takes long.

Butterworth, order 5, causal, starting from silence: the same output as `scipy.signal.lfilter` within rounding.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

HIGH_PASS_HZ = 48
HIGH_PASS_ORDER = 5
RESPONSE_SECONDS = 0.25
"""Time in which the impulse response falls below 1e-9."""
MAX_FFT = 2**17


class HighPass:
    """The filter for consecutive blocks of one recording."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._before = np.zeros(round(RESPONSE_SECONDS * sample_rate))

    def __call__(self, block: NDArray[np.floating]) -> NDArray[np.float64]:
        """Filter the next samples, (num_samples,)."""
        step = MAX_FFT - len(self._before)
        parts = [self._filter(block[start : start + step]) for start in range(0, len(block), step)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _filter(self, block: NDArray[np.floating]) -> NDArray[np.float64]:
        num_before = len(self._before)
        samples = np.concatenate([self._before, block])  # float64, as the samples before
        self._before = samples[len(samples) - num_before :]
        size = 1 << (len(samples) - 1).bit_length()
        spectrum = np.fft.rfft(samples, size)
        spectrum *= _response(self._sample_rate, size)
        filtered: NDArray[np.float64] = np.fft.irfft(spectrum, size)
        return filtered[num_before : len(samples)]


@functools.lru_cache(maxsize=4)
def _response(sample_rate: int, size: int) -> NDArray[np.complex128]:
    """Frequency response for an FFT of `size`, (size // 2 + 1,): the bilinear transform of the analogue filter."""
    omega = np.pi * np.arange(size // 2 + 1) / size
    ratio = 1j * np.tan(omega) / math.tan(math.pi * HIGH_PASS_HZ / sample_rate)
    response = ratio**HIGH_PASS_ORDER
    for number in range(HIGH_PASS_ORDER):
        pole = np.exp(1j * np.pi * (2 * number + HIGH_PASS_ORDER + 1) / (2 * HIGH_PASS_ORDER))
        response = response / (1 - pole * ratio)
    return response
