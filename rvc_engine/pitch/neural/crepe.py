"""Pitch by CREPE, full or tiny: a model of the raw wave, window by window.

Decoding follows Applio: the likeliest path (Viterbi) through the bins from 50 to 1100 Hz, and a frame is voiced where
the median over three frames of the path's activation is at least 0.1. There are two differences. The pitch is the mean
around the path's bin: torchcrepe adds noise of up to 20 cents to hide its bins, and Applio averages three frames to
hide the noise. And the path covers the whole clip, not pieces of 5 s.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray

from rvc_engine.compute.accelerators import memory_of
from rvc_engine.compute.device import first_device
from rvc_engine.machine import Machine
from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, fit_length, num_frames
from rvc_engine.pitch.neural.crepe_model import WINDOW, Crepe, Kind, normalize
from rvc_engine.pitch.neural.published import load_published
from rvc_engine.pitch.neural.salience import CENTS, NUM_BINS, local_average_hz
from rvc_engine.pitch.neural.viterbi import viterbi_path

THRESHOLD = 0.1
"""Activation from which a frame is voiced, as in Applio."""


MIN_WINDOWS, MAX_WINDOWS = 256, 4096
"""Limits of the windows in a batch: 2.6 s and 41 s of sound."""
MEMORY_FRACTION = 0.25
"""Share of a device's free memory for a batch; cuDNN's workspaces take about as much again."""


def windows_that_fit(window_bytes: int, free_bytes: int) -> int:
    """Number of windows in a batch, for so much free memory of the device."""
    return max(MIN_WINDOWS, min(MAX_WINDOWS, int(MEMORY_FRACTION * free_bytes) // window_bytes))


class CrepeEstimator:
    """CREPE on any device. Frame k is centred on sample 160 k."""

    def __init__(self, model: Crepe, device: torch.device) -> None:
        self.name: str = model.kind
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        is_cpu = device.type == "cpu"
        # the full model takes half a gigabyte for its windows
        self.threads_per_call = (4 if model.kind == "crepe" else 1) if is_cpu else None
        self.batch_size = 1 if model.kind == "crepe" and is_cpu else 8
        self._batch_windows = MIN_WINDOWS if is_cpu else windows_that_fit(model.window_bytes, memory_of(device)[0])

    @classmethod
    def from_published(cls, kind: Kind, machine: Machine) -> "CrepeEstimator":
        """Load published weights. Raises MissingWeights, IncompatibleCheckpoint, InvalidConfig for a missing device."""
        model = Crepe(kind)
        load_published(model, kind, machine, model.convert_published_weights)
        return cls(model, first_device(machine))

    @torch.inference_mode()
    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [fit_length(activation_to_hz(self.activation(wave)), num_frames(len(wave))) for wave in waves_16k]

    @torch.inference_mode()
    def activation(self, wave: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activation of each bin in each frame, 0..1: (num_samples,) to (1 + num_samples // 160, NUM_BINS)."""
        padded = torch.nn.functional.pad(torch.from_numpy(wave).to(self._device), (WINDOW // 2, WINDOW // 2))
        windows = padded.unfold(0, WINDOW, HOP_LENGTH)
        parts = [self._model(normalize(part)).cpu().numpy() for part in torch.split(windows, self._batch_windows)]
        activation: NDArray[np.float32] = np.concatenate(parts)
        return activation


def activation_to_hz(activation: NDArray[np.float32]) -> NDArray[np.float64]:
    """Activation (T, NUM_BINS) to Hz (T,), 0 where unvoiced."""
    path = viterbi_path(likelihood(activation))
    periodicity = np.take_along_axis(activation, path[:, None], axis=1)[:, 0]
    steady = scipy.ndimage.median_filter(periodicity, size=3, mode="constant", cval=-np.inf)  # at an end: the lesser
    return np.where(steady >= THRESHOLD, local_average_hz(activation, path, CENTS), 0.0)


def likelihood(activation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax of the activation (T, NUM_BINS) over the bins of the allowed range, as in torchcrepe."""
    lowest, highest = (1200 * np.log2(hz / 10) for hz in (MIN_HZ, MAX_HZ))
    is_allowed = (np.arange(NUM_BINS) >= np.floor((lowest - CENTS[0]) / 20)) & (
        np.arange(NUM_BINS) < np.ceil((highest - CENTS[0]) / 20)
    )
    odds = np.exp(activation) * is_allowed
    shares: NDArray[np.float32] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares
