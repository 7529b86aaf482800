"""DIO with StoneMask, and Harvest: the estimators of the WORLD vocoder (Morise et al., 2016, 2017)."""

from collections.abc import Sequence

import numpy as np
import pyworld
from numpy.typing import NDArray

from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, fit_length, num_frames

_FRAME_MILLISECONDS = 1000 * HOP_LENGTH / ANALYSIS_SAMPLE_RATE
_SHORTEST_SAMPLES = 2 * HOP_LENGTH
"""WORLD gives wrong results for clips of a frame or less."""


class DioEstimator:
    """DIO refined by StoneMask: fast; its voicing is the least reliable, in noise and in quiet voice."""

    name = "dio"
    batch_size = 8
    threads_per_call: int | None = 1

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._estimate_clip(wave) for wave in waves_16k]

    def _estimate_clip(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        if len(wave) < _SHORTEST_SAMPLES:
            return np.zeros(num_frames(len(wave)))
        samples = wave.astype(np.float64)
        hz, times = pyworld.dio(
            samples, ANALYSIS_SAMPLE_RATE, f0_floor=MIN_HZ, f0_ceil=MAX_HZ, frame_period=_FRAME_MILLISECONDS
        )
        return fit_length(pyworld.stonemask(samples, hz, times, ANALYSIS_SAMPLE_RATE), num_frames(len(wave)))


class HarvestEstimator:
    """Harvest: few unvoiced gaps, slow."""

    name = "harvest"
    batch_size = 1
    threads_per_call: int | None = 1

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._estimate_clip(wave) for wave in waves_16k]

    def _estimate_clip(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        if len(wave) < _SHORTEST_SAMPLES:
            return np.zeros(num_frames(len(wave)))
        hz, _ = pyworld.harvest(
            wave.astype(np.float64),
            ANALYSIS_SAMPLE_RATE,
            f0_floor=MIN_HZ,
            f0_ceil=MAX_HZ,
            frame_period=_FRAME_MILLISECONDS,
        )
        return fit_length(hz, num_frames(len(wave)))
