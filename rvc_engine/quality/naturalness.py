"""Naturalness: the overall quality of speech by DNSMOS P.835 (Reddy et al., 2022), 1 bad to 5 excellent.

The model comes with the package speechmos (MIT), whose own program needs librosa and is not run.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE

_NUM_SAMPLES = int(9.01 * ANALYSIS_SAMPLE_RATE)
"""Length of the model's input; shorter clips are repeated, as in training."""
_CALIBRATION = (-0.06766283, 1.11546468, 0.04602535)
"""Polynomial from the model's overall score to people's, as published with it."""


class Dnsmos:
    """The model on the CPU."""

    def __init__(self, model: Path, num_threads: int) -> None:
        """Raises IncompatibleCheckpoint when the file is damaged."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to other programs
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            raise IncompatibleCheckpoint(f"{model} is not the model of DNSMOS ({error}); fetch it again") from error

    def score(self, wave_16k: NDArray[np.float32]) -> float:
        """Overall score of a clip at 16 kHz."""
        wave = np.clip(wave_16k, -1, 1).astype(np.float32)
        repeated = np.tile(wave, -(-_NUM_SAMPLES // len(wave)))
        starts = range(0, len(wave) - _NUM_SAMPLES + 1, ANALYSIS_SAMPLE_RATE) if len(wave) >= _NUM_SAMPLES else (0,)
        inputs = (repeated[start : start + _NUM_SAMPLES][None] for start in starts)
        raw = [self._session.run(None, {"input_1": each})[0][0][2] for each in inputs]
        return float(np.mean([np.polyval(_CALIBRATION, each) for each in raw]))
