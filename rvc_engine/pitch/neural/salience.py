"""Batching, windowing and decoding for models with a salience of 360 pitch bins per frame."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

NUM_BINS = 360
CENTS = 1997.3794084376191 + 20 * np.arange(NUM_BINS, dtype=np.float64)
"""Pitch of each bin in cents above 10 Hz, C1 to B6, as defined by CREPE and adopted by RMVPE."""
_REACH = 4
"""Bins on either side of the strongest that count for the mean pitch."""
_MARGIN_FRAMES = 256
"""Frames at a window's edge that are taken from the neighbouring window instead."""

SalienceModel = Callable[[Tensor], Tensor]
"""Log-mels (B, n_mels, T) to salience (B, T, NUM_BINS)."""


def salience_to_hz(salience: NDArray[np.float32], cents: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Decode salience (T, NUM_BINS) to Hz (T,): mean around the strongest bin, 0 where none exceeds `threshold`."""
    hz = local_average_hz(salience, salience.argmax(axis=1), cents)
    return np.where(salience.max(axis=1) > threshold, hz, 0.0)


def local_average_hz(
    salience: NDArray[np.float32], bins: NDArray[np.int64], cents: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean pitch in Hz (T,) of the bins around one bin of each frame (T,), weighted by their salience (T, NUM_BINS)."""
    near = bins[:, None] + np.arange(-_REACH, _REACH + 1)
    weights = np.take_along_axis(salience, near.clip(0, NUM_BINS - 1), axis=1).astype(np.float64)
    weights[(near < 0) | (near >= NUM_BINS)] = 0.0
    total = weights.sum(axis=1)
    mean = (weights * cents[near.clip(0, NUM_BINS - 1)]).sum(axis=1) / np.where(total > 0, total, 1.0)
    hz: NDArray[np.float64] = np.where(total > 0, 10 * np.exp2(mean / 1200), 0.0)
    return hz


@dataclass(frozen=True)
class _Window:
    clip: int
    start: int
    """First frame in the clip."""
    kept: slice
    """Frames of the window to keep."""
    mel: Tensor


def salience_from_mels(
    mels: Sequence[Tensor], model: SalienceModel, *, multiple: int, window_frames: int, batch_frames: int
) -> list[NDArray[np.float32]]:
    """Salience of each clip (T, NUM_BINS) from its log-mel (n_mels, T), T >= 1.

    Each clip is padded with zeros to a `multiple` of frames. Only clips of equal padded length share a batch of about
    `batch_frames`, so the result of a clip does not depend on the others. Clips longer than `window_frames` (itself a
    multiple) are processed in windows, each overlapping its neighbours by a margin.
    """
    saliences = [np.zeros((mel.shape[1], NUM_BINS), np.float32) for mel in mels]
    windows = [window for clip, mel in enumerate(mels) for window in _windows(clip, mel, multiple, window_frames)]
    for batch in _batches_of_equal_length(windows, batch_frames):
        outputs = model(torch.stack([window.mel for window in batch])).float().cpu().numpy()
        for window, rows in zip(batch, outputs, strict=True):
            kept = rows[window.kept]
            saliences[window.clip][window.start + window.kept.start :][: len(kept)] = kept
    return saliences


def _windows(clip: int, mel: Tensor, multiple: int, window_frames: int) -> list[_Window]:
    """Windows of a clip. They start at multiples, so that a model that halves its frames pairs them as in the clip."""
    frames = mel.shape[1]
    mel = F.pad(mel, (0, -frames % multiple))
    last = mel.shape[1] - window_frames
    if last <= 0:
        return [_Window(clip, 0, slice(0, frames), mel)]
    count = 1 + math.ceil(last / (window_frames - 2 * _MARGIN_FRAMES))
    starts = [round(start) * multiple for start in np.linspace(0, last // multiple, count)]
    return [
        _Window(
            clip,
            start,
            slice(_MARGIN_FRAMES if start else 0, frames - start),  # the next window overwrites this one's last frames
            mel[:, start : start + window_frames],
        )
        for start in starts
    ]


def _batches_of_equal_length(windows: Sequence[_Window], batch_frames: int) -> Iterator[list[_Window]]:
    by_length: dict[int, list[_Window]] = defaultdict(list)
    for window in windows:
        by_length[window.mel.shape[1]].append(window)
    for frames, equal in by_length.items():
        count = max(1, batch_frames // frames)
        for start in range(0, len(equal), count):
            yield equal[start : start + count]
