"""The likeliest way through a grid of frames and bins (Viterbi, 1967), where pitch moves by a few bins a frame."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WIDTH = 12
"""Moves by so many bins or more are all but ruled out; the nearer, the likelier, falling linearly."""
_TINY = float(np.log(np.finfo(np.float32).tiny))
"""The logarithm that stands for impossible."""


@lru_cache(maxsize=2)
def _transition_log_probabilities(num_bins: int) -> NDArray[np.float64]:
    """Log-probability of coming to bin j from bin j + d - 11, (num_bins, 23); -inf where there is no such bin."""
    steps = np.arange(num_bins)
    triangle = np.maximum(_WIDTH - np.abs(steps[:, None] - steps), 0).astype(np.float64)
    leaving = triangle.sum(axis=1)
    near = steps[:, None] + np.arange(1 - _WIDTH, _WIDTH)
    shares = (_WIDTH - np.abs(near - steps[:, None])) / leaving[near.clip(0, num_bins - 1)]
    return np.where((near >= 0) & (near < num_bins), np.log(shares), -np.inf)


def viterbi_path(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each frame, (T,), on the likeliest way through probabilities (T, num_bins), from whichever bin."""
    num_frames, num_bins = probability.shape
    if not num_frames:
        return np.zeros(0, np.int64)
    log_probability = np.maximum(np.log(probability.astype(np.float64) + np.finfo(np.float32).tiny), _TINY)
    transitions = _transition_log_probabilities(num_bins)
    came_from = np.zeros((num_frames, num_bins), np.int16)
    value = log_probability[0]
    bins = np.arange(num_bins)
    for frame in range(1, num_frames):
        padded = np.pad(value, _WIDTH - 1, constant_values=-np.inf)
        ways = np.lib.stride_tricks.sliding_window_view(padded, 2 * _WIDTH - 1) + transitions
        best = ways.argmax(axis=1)
        near, far = ways[bins, best], value.max() + _TINY
        came_from[frame] = np.where(near >= far, best + bins + 1 - _WIDTH, value.argmax())
        value = np.maximum(near, far) + log_probability[frame]
    path = np.zeros(num_frames, np.int64)
    path[-1] = value.argmax()
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path
