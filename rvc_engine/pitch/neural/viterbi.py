"""Likeliest path through frames and pitch bins (Viterbi, 1967), where pitch moves by a few bins per frame."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WIDTH = 12
"""Movements of this many bins or more are nearly impossible; below, probability falls linearly with distance."""
_TINY = float(np.log(np.finfo(np.float32).tiny))
"""Logarithm of the probability of an impossible transition."""


@lru_cache(maxsize=2)
def _transition_log_probabilities(num_bins: int) -> NDArray[np.float64]:
    """Log-probability of a transition to bin j from bin j + d - 11, (num_bins, 23); -inf where there is no such bin."""
    steps = np.arange(num_bins)
    triangle = np.maximum(_WIDTH - np.abs(steps[:, None] - steps), 0).astype(np.float64)
    leaving = triangle.sum(axis=1)
    near = steps[:, None] + np.arange(1 - _WIDTH, _WIDTH)
    shares = (_WIDTH - np.abs(near - steps[:, None])) / leaving[near.clip(0, num_bins - 1)]
    return np.where((near >= 0) & (near < num_bins), np.log(shares), -np.inf)


def viterbi_path(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bin of each frame (T,) on the likeliest path through probabilities (T, num_bins), starting at any bin."""
    num_frames, num_bins = probability.shape
    if not num_frames:
        return np.zeros(0, np.int64)
    log_probability = np.maximum(np.log(probability.astype(np.float64) + np.finfo(np.float32).tiny), _TINY)
    transitions = _transition_log_probabilities(num_bins)
    previous = np.zeros((num_frames, num_bins), np.int16)
    value = log_probability[0]
    bins = np.arange(num_bins)
    for frame in range(1, num_frames):
        padded = np.pad(value, _WIDTH - 1, constant_values=-np.inf)
        candidates = np.lib.stride_tricks.sliding_window_view(padded, 2 * _WIDTH - 1) + transitions
        best = candidates.argmax(axis=1)
        near, far = candidates[bins, best], value.max() + _TINY
        previous[frame] = np.where(near >= far, best + bins + 1 - _WIDTH, value.argmax())
        value = np.maximum(near, far) + log_probability[frame]
    path = np.zeros(num_frames, np.int64)
    path[-1] = value.argmax()
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = previous[frame, path[frame]]
    return path
