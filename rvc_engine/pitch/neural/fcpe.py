"""Pitch by FCPE: a convolutional model, fast on CPUs too."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rvc_engine.compute.device import first_device
from rvc_engine.machine import Machine
from rvc_engine.pitch.curve import fit_length, num_frames
from rvc_engine.pitch.neural.fcpe_model import Fcpe, log_mel
from rvc_engine.pitch.neural.published import load_published
from rvc_engine.pitch.neural.salience import salience_from_mels, salience_to_hz

THRESHOLD = 0.006
"""Salience from which a frame is voiced, as in RVC and Applio."""
WINDOW_FRAMES = 30_000
"""Five minutes: the model normalizes over its whole input (group norm), so a song should not be cut."""
BATCH_FRAMES = 12_000


class FcpeEstimator:
    """FCPE on any device. Frames are centred on sample 160 k + 80, but the model is trained for the pitch at 160 k."""

    name = "fcpe"

    def __init__(self, model: Fcpe, device: torch.device) -> None:
        self._cents = model.cent_table.numpy().astype(np.float64)
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self.threads_per_call = 1 if device.type == "cpu" else None
        self.batch_size = 4 if device.type == "cpu" else 32

    @classmethod
    def from_published(cls, machine: Machine) -> "FcpeEstimator":
        """Load published weights. Raises MissingWeights, IncompatibleCheckpoint, InvalidConfig for a missing device."""
        model = Fcpe()
        load_published(model, "fcpe", machine, lambda file: file["model"])
        return cls(model, first_device(machine))

    @torch.inference_mode()
    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        mels = [log_mel(torch.from_numpy(wave).to(self._device)[None])[0] for wave in waves_16k]
        saliences = salience_from_mels(
            mels, self._model, multiple=1, window_frames=WINDOW_FRAMES, batch_frames=BATCH_FRAMES
        )
        return [
            fit_length(salience_to_hz(salience, self._cents, THRESHOLD), num_frames(len(wave)))
            for wave, salience in zip(waves_16k, saliences, strict=True)
        ]
