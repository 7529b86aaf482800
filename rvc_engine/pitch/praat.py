"""Praat's autocorrelation (Boersma, 1993), through praat-parselmouth.

That package is under the GPL-3, so it is not installed by default but by the extra `pm`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, fit_length, num_frames, resample_curve
from rvc_engine.pitch.names import check_installed

VOICING_THRESHOLD = 0.6
"""As in RVC."""
_PADDING_SAMPLES = 3 * HOP_LENGTH
"""Silence at both ends: half a window of three periods of the lowest pitch, so that the first sample gets a frame."""


class PraatEstimator:
    """Praat centres its frames on the middle of a clip; the curve is resampled to the engine's frames."""

    name = "pm"
    batch_size = 8
    threads_per_call: int | None = None
    """Praat holds the GIL."""

    def __init__(self) -> None:
        """Check that praat-parselmouth is installed; raises InvalidConfig."""
        check_installed("pm")

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._estimate_clip(wave) for wave in waves_16k]

    def _estimate_clip(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        import parselmouth

        length = num_frames(len(wave))
        if not length:
            return np.zeros(0)
        sound = parselmouth.Sound(np.pad(wave.astype(np.float64), _PADDING_SAMPLES), float(ANALYSIS_SAMPLE_RATE))
        pitch = sound.to_pitch_ac(
            time_step=HOP_LENGTH / ANALYSIS_SAMPLE_RATE,
            voicing_threshold=VOICING_THRESHOLD,
            pitch_floor=MIN_HZ,
            pitch_ceiling=MAX_HZ,
        )
        times = (np.arange(length) * HOP_LENGTH + _PADDING_SAMPLES) / ANALYSIS_SAMPLE_RATE
        return fit_length(resample_curve(pitch.selected_array["frequency"], pitch.xs(), times), length)
