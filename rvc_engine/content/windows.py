"""Encoding of clips of any length in batches of windows.

Windows of similar length share a batch; the models give each the frames that it would have alone. A clip longer than a
window is cut into overlapping windows of one length, whose frames are cross-faded where they overlap, so that there is
no seam.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 320
"""20 ms at 16 kHz."""
RECEPTIVE_SAMPLES = 400
"""Receptive field of HuBERT's convolutions: samples that one frame depends on."""
BATCH_FRAMES = 800
"""Limit of frames in a batch, as if all windows were as long as the longest: four training slices of 4 s. Longer
windows are encoded one by one. Larger batches are not faster on a CPU."""

Item = TypeVar("Item")
BatchEncoder = Callable[[Sequence[NDArray[np.float32]]], Sequence[NDArray[np.float32]]]
"""Encode waves (num_samples,) of similar lengths, of a frame or more: (num_content_frames(num_samples), size) each."""


def num_content_frames(num_samples: int) -> int:
    """Number of frames of a clip at 16 kHz, for every encoder: that of HuBERT's convolutions.

    Frame t depends on samples 320 t to 320 t + 400. A clip under 25 ms has none.
    """
    return max(0, (num_samples - RECEPTIVE_SAMPLES) // FRAME_SAMPLES + 1)


@dataclass(frozen=True)
class _Window:
    clip: int
    start: int
    """First frame in the clip."""
    frames: int
    wave: NDArray[np.float32]


def encode_in_windows(
    waves: Sequence[NDArray[np.float32]], encoder: BatchEncoder, size: int, window_frames: int, overlap_frames: int
) -> list[NDArray[np.float32]]:
    """Encode clips (num_samples,) of any lengths: (frames, size) float32 each. `size` is the number of features."""
    windows = [
        window for clip, wave in enumerate(waves) for window in cut_windows(clip, wave, window_frames, overlap_frames)
    ]
    sums = [np.zeros((num_content_frames(len(wave)), size), np.float32) for wave in waves]
    weights = [np.zeros((len(clip_sum), 1), np.float32) for clip_sum in sums]
    by_length = sorted(windows, key=lambda window: len(window.wave))
    for batch in batches_by_size(((window.frames, window) for window in by_length), BATCH_FRAMES):
        for window, features in zip(batch, encoder([window.wave for window in batch]), strict=True):
            part = slice(window.start, window.start + window.frames)
            fade = _fade(window.frames, overlap_frames)
            sums[window.clip][part] += features * fade
            weights[window.clip][part] += fade
    return [total / weight for total, weight in zip(sums, weights, strict=True)]


def cut_windows(clip: int, wave: NDArray[np.float32], window_frames: int, overlap_frames: int) -> list[_Window]:
    """Cut a clip: one window, or several of exactly `window_frames` that overlap by at least `overlap_frames`."""
    frames = num_content_frames(len(wave))
    if frames <= window_frames:
        return [_Window(clip, 0, frames, wave)] if frames else []
    count = -(-(frames - overlap_frames) // (window_frames - overlap_frames))
    samples = window_frames * FRAME_SAMPLES + RECEPTIVE_SAMPLES - FRAME_SAMPLES
    return [
        _Window(clip, int(start), window_frames, wave[int(start) * FRAME_SAMPLES :][:samples])
        for start in np.linspace(0, frames - window_frames, count).round()
    ]


def batches_by_size(items: Iterable[tuple[int, Item]], limit: int) -> Iterator[list[Item]]:
    """Batch items of increasing sizes, (size, item), up to `limit`, as if all were as large as the last of a batch."""
    batch: list[Item] = []
    for size, item in items:
        if batch and (len(batch) + 1) * size > limit:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _fade(frames: int, overlap_frames: int) -> NDArray[np.float32]:
    """Weight of each frame of a window, (frames, 1): rising over the overlap, then 1, falling at the end.

    The result is divided by the sum of all windows' weights, so a clip's own ends are not faded.
    """
    up = np.minimum(np.arange(1, frames + 1) / (overlap_frames + 1), 1.0)
    fade: NDArray[np.float32] = np.minimum(up, up[::-1]).astype(np.float32)[:, None]
    return fade
