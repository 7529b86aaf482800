"""Pitch by RMVPE, the reference's default: a large model, trained for voices over music."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from rvc_engine.compute.device import first_device
from rvc_engine.machine import Machine
from rvc_engine.pitch.curve import HOP_LENGTH, fit_length, num_frames
from rvc_engine.pitch.neural.published import load_published
from rvc_engine.pitch.neural.rmvpe_model import FRAME_MULTIPLE, N_FFT, Rmvpe, log_mel
from rvc_engine.pitch.neural.salience import CENTS, salience_from_mels, salience_to_hz

THRESHOLD = 0.03
"""Salience from which a frame is voiced, as in RVC and Applio."""
WINDOW_FRAMES = 6144
"""A minute: longer clips would take gigabytes in the upper levels of the model."""
BATCH_FRAMES = 6144
_SHORTEST_SAMPLES = N_FFT // 2 + 1
"""Shortest wave that can be reflected by half a frame."""


class RmvpeEstimator:
    """RMVPE on any device. Frame k is centred on sample 160 k."""

    name = "rmvpe"

    def __init__(self, model: Rmvpe, device: torch.device) -> None:
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self.threads_per_call = 1 if device.type == "cpu" else None
        self.batch_size = 1 if device.type == "cpu" else 16

    @classmethod
    def from_published(cls, machine: Machine) -> "RmvpeEstimator":
        """Load published weights. Raises MissingWeights, IncompatibleCheckpoint, InvalidConfig for a missing device."""
        model = Rmvpe()
        load_published(model, "rmvpe", machine)  # float16 in the file, float32 here
        return cls(model, first_device(machine))

    @torch.inference_mode()
    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        mels = [self._mel(torch.from_numpy(wave).to(self._device)) for wave in waves_16k]
        saliences = salience_from_mels(
            mels, self._model, multiple=FRAME_MULTIPLE, window_frames=WINDOW_FRAMES, batch_frames=BATCH_FRAMES
        )
        return [
            fit_length(salience_to_hz(salience, CENTS, THRESHOLD), num_frames(len(wave)))
            for wave, salience in zip(waves_16k, saliences, strict=True)
        ]

    def _mel(self, wave: Tensor) -> Tensor:
        """(num_samples,) -> (N_MELS, 1 + num_samples // 160); a very short clip is padded with silence."""
        padded = F.pad(wave, (0, max(0, _SHORTEST_SAMPLES - len(wave))))
        return log_mel(padded[None])[0, :, : 1 + len(wave) // HOP_LENGTH]
