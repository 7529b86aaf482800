"""Spectrograms and log-mel spectrograms on the device, as the reference computes them.

Windows and filters are cached by device, dtype and every size that they depend on; the reference's cache key lacks the
sample rate, so it mixes filters of different rates.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

LOG_FLOOR = 2e-6
MAGNITUDE_FLOOR = 2e-7
"""Added to the power before the square root, so that the gradient at silence is finite."""


@lru_cache(maxsize=16)
def _window(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(size, device=device, dtype=dtype)


def spectrogram(wave: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Magnitudes (B, n_fft / 2 + 1, T / hop) of a wave (B, T). Frames are not centred; the ends are reflected."""
    padding = (n_fft - hop_length) // 2
    return magnitudes(F.pad(wave.unsqueeze(1), (padding, padding), "reflect").squeeze(1), n_fft, hop_length)


def magnitudes(wave: Tensor, n_fft: int, hop_length: int) -> Tensor:
    """Compute the `spectrogram` of waves that are already padded at both ends, (B, T + n_fft - hop_length)."""
    window = _window(n_fft, wave.device, wave.dtype)
    spectrum = torch.stft(wave, n_fft, hop_length, n_fft, window, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + MAGNITUDE_FLOOR).sqrt()


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1 kHz, logarithmic above (Auditory Toolbox)."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangular filters of unit area (n_mels, n_fft / 2 + 1), float64, from 0 Hz to half the sample rate."""
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(np.array(sample_rate / 2)), n_mels + 2))
    return triangular_filters(edges, sample_rate, n_fft)


def triangular_filters(edges: np.ndarray, sample_rate: int, n_fft: int) -> np.ndarray:
    """Filters of unit area (len(edges) - 2, n_fft / 2 + 1), float64.

    Each filter rises from one edge (Hz) to the next and falls to the one after.
    """
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    width = np.diff(edges)
    ramps = edges[:, None] - bins
    rising, falling = -ramps[:-2] / width[:-1, None], ramps[2:] / width[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


@lru_cache(maxsize=16)
def _mel_matrix(sample_rate: int, n_fft: int, n_mels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Rounded to float32 first, whatever the dtype: the reference's filters are float32, and the golden numbers show it.
    filters = torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels).astype(np.float32))
    return filters.to(device=device, dtype=dtype)


def log_mel(spec: Tensor, sample_rate: int, n_mels: int) -> Tensor:
    """Natural log of the mel magnitudes, (B, n_mels, T), of linear magnitudes (B, bins, T)."""
    n_fft = 2 * (spec.shape[1] - 1)
    matrix = _mel_matrix(sample_rate, n_fft, n_mels, spec.device, spec.dtype)
    return (matrix @ spec).clamp(min=LOG_FLOOR).log()


@lru_cache(maxsize=16)
def mel_front_end(sample_rate: int, n_fft: int, n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hann window (n_fft,) and mel filters (n_mels, n_fft / 2 + 1) in float32, for the published models.

    Cached apart from the constants of training: these may be inference tensors, which autograd rejects.
    """
    filters = torch.from_numpy(mel_filters(sample_rate, n_fft, n_mels).astype(np.float32))
    return torch.hann_window(n_fft, device=device), filters.to(device)
