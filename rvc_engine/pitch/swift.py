"""SwiftF0: a small convolutional model whose weights are in its package (Nieradzik, "SwiftF0", 2025; MIT)."""

from collections.abc import Sequence

import numpy as np
import swift_f0
from numpy.typing import NDArray

from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, fit_length, num_frames, resample_curve

VOICED_CONFIDENCE = 0.5
"""Confidence from which a frame is voiced, as the model is calibrated."""
_NUM_THREADS = 2


class SwiftEstimator:
    """SwiftF0 on the CPU: frames every 16 ms, resampled to every 10 ms."""

    name = "swift"
    batch_size = 8
    threads_per_call: int | None = 1

    def __init__(self, num_threads: int | None = None) -> None:
        # no spinning: an idle pool would take cores from other programs of the machine
        self._detector = swift_f0.SwiftF0(threads=min(num_threads or _NUM_THREADS, _NUM_THREADS), spin=False)

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._estimate_clip(wave) for wave in waves_16k]

    def _estimate_clip(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        length = num_frames(len(wave))
        if not length:
            return np.zeros(0)
        result = self._detector.detect(wave, ANALYSIS_SAMPLE_RATE, fmin=MIN_HZ, fmax=MAX_HZ)
        hz = np.where(result.confidence >= VOICED_CONFIDENCE, result.pitch_hz, 0.0)
        times = np.arange(length, dtype=np.float64) * (HOP_LENGTH / ANALYSIS_SAMPLE_RATE)
        return fit_length(resample_curve(hz, result.timestamps, times), length)
