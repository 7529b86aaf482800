"""Speaker similarity, an optional score: measured if the weights of a scorer are installed.

The only scorer reads the published weights of Resemblyzer (Apache-2.0), a d-vector model (Wan et al., "Generalized
End-to-End Loss for Speaker Verification", 2018), from the installed package without importing it: the package needs
librosa, numba and webrtcvad, and the last of these a module that setuptools no longer has. Its files are enough:
`pip install --no-deps resemblyzer`; `rvc-engine weights fetch quality` takes this one out of the wheel, for the scores
of a finished voice (`rvc_engine.quality`).
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from rvc_engine.audio.mel import mel_filters
from rvc_engine.checkpoints.io import load_file
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.weights.packages import package_file

_N_FFT = 400
_HOP_LENGTH = 160
_NUM_MELS = 40
_PARTIAL_FRAMES = 160
"""Length of a part that is embedded at once: 1.6 s."""
_PARTIAL_STEP = 77
"""Distance of the starts of two parts: 1.3 parts per second."""
_MIN_COVERAGE = 0.75
"""Share of a last part that must be sound; with less it is left out, unless it is the only one."""
_TARGET_DBFS = -30.0
"""Level that quieter clips are raised to."""


class SpeakerScorer(Protocol):
    """Speaker embedder, for comparing voices."""

    name: str

    def embed(self, wave_16k: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed the speaker of a clip at 16 kHz as a vector of length 1; the dot product of two is their similarity."""
        ...


def installed_scorer() -> SpeakerScorer | None:
    """The scorer whose weights are installed, or None. Raises IncompatibleCheckpoint when they are damaged."""
    weights = package_file("resemblyzer", "pretrained.pt")
    return None if weights is None else ResemblyzerScorer(weights)


class _VoiceEncoder(nn.Module):
    """LSTM with the names and sizes of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_NUM_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """(B, 160, 40) -> (B, 256), of length 1."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


class ResemblyzerScorer:
    """Resemblyzer's model on the CPU, for speech of any language, in clips of a second or more."""

    name = "resemblyzer"

    def __init__(self, weights: Path) -> None:
        """Raises IncompatibleCheckpoint when the file is not that of the package."""
        with torch.random.fork_rng(devices=[]):  # its initial weights must not change training's state
            self._model = _VoiceEncoder().eval()
        tree = load_file(weights)
        try:
            tree = tree["model_state"]
            self._model.load_state_dict({name: tree[name] for name in self._model.state_dict()})
        except (KeyError, TypeError, RuntimeError) as error:
            message = f"{weights} is not the file of the package resemblyzer; install the package again"
            raise IncompatibleCheckpoint(message) from error
        self._filters = torch.from_numpy(mel_filters(ANALYSIS_SAMPLE_RATE, _N_FFT, _NUM_MELS).astype(np.float32))
        self._window = torch.hann_window(_N_FFT)

    @torch.no_grad()
    def embed(self, wave_16k: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `SpeakerScorer.embed`."""
        wave = _normalize_level(torch.from_numpy(np.ascontiguousarray(wave_16k, np.float32)))
        starts = _partial_starts(len(wave))
        wave = F.pad(wave, (0, max(0, (starts[-1] + _PARTIAL_FRAMES) * _HOP_LENGTH - len(wave))))
        mels = self._mels(wave)
        partials = torch.stack([mels[start : start + _PARTIAL_FRAMES] for start in starts])
        embedding: NDArray[np.float32] = F.normalize(self._model(partials).mean(0), dim=0).numpy()
        return embedding

    def _mels(self, wave: Tensor) -> Tensor:
        """(num_samples,) -> (frames, 40), mel powers without a logarithm."""
        spectrum = torch.stft(wave, _N_FFT, _HOP_LENGTH, window=self._window, pad_mode="constant", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (self._filters @ power).t()


def _normalize_level(wave: Tensor) -> Tensor:
    level = 10 * torch.log10(wave.square().mean() + 1e-12)
    return wave * 10 ** (max(0.0, _TARGET_DBFS - float(level)) / 20) if float(level) > -100 else wave


def _partial_starts(num_samples: int) -> list[int]:
    """First frames of the parts of a clip that are embedded."""
    num_frames = -(-(num_samples + 1) // _HOP_LENGTH)
    starts = list(range(0, max(1, num_frames - _PARTIAL_FRAMES + _PARTIAL_STEP + 1), _PARTIAL_STEP))
    covered = (num_samples / _HOP_LENGTH - starts[-1]) / _PARTIAL_FRAMES
    return starts[:-1] if covered < _MIN_COVERAGE and len(starts) > 1 else starts
