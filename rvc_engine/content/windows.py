"""From clips of any length to what a net takes at once, and back: windows, batches, cross-fades.

Pieces of like length share a batch; the nets see to it that each gets the rows that it would have alone. A clip longer
than a window is cut into overlapping windows of one length, and where they overlap their rows are cross-faded, so that
no seam is left.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 320
"""20 ms at 16 kHz."""
RECEPTIVE_SAMPLES = 400
"""What HuBERT's convolutions see of the wave for one row."""
BATCH_FRAMES = 800
"""Rows in a batch, as if all pieces were as long as the longest: four training slices of 4 s. Longer pieces go one by
one. More at once are no faster on a CPU."""

Item = TypeVar("Item")
BatchEncoder = Callable[[Sequence[NDArray[np.float32]]], Sequence[NDArray[np.float32]]]
"""Waves (num_samples,) of like lengths, each of a row at least, to the rows of each, (num_rows(num_samples), size)."""


def num_content_frames(num_samples: int) -> int:
    """Rows of a clip of so many samples at 16 kHz, for every encoder: as many as HuBERT's convolutions give.

    Row t tells of the samples from 320 t to 320 t + 400. A clip under 25 ms has none.
    """
    return max(0, (num_samples - RECEPTIVE_SAMPLES) // FRAME_SAMPLES + 1)


@dataclass(frozen=True)
class _Window:
    clip: int
    start: int
    """First row."""
    frames: int
    wave: NDArray[np.float32]


def encode_in_windows(
    waves: Sequence[NDArray[np.float32]], encoder: BatchEncoder, size: int, window_frames: int, overlap_frames: int
) -> list[NDArray[np.float32]]:
    """Rows of each clip, (num_rows, size) float32. `size` is the width of a row."""
    windows = [
        window for clip, wave in enumerate(waves) for window in cut_windows(clip, wave, window_frames, overlap_frames)
    ]
    sums = [np.zeros((num_content_frames(len(wave)), size), np.float32) for wave in waves]
    weights = [np.zeros((len(content_frames), 1), np.float32) for content_frames in sums]
    by_length = sorted(windows, key=lambda window: len(window.wave))
    for batch in batches_by_size(((window.frames, window) for window in by_length), BATCH_FRAMES):
        for window, rows in zip(batch, encoder([window.wave for window in batch]), strict=True):
            part = slice(window.start, window.start + window.frames)
            fade = _fade(window.frames, overlap_frames)
            sums[window.clip][part] += rows * fade
            weights[window.clip][part] += fade
    return [total / weight for total, weight in zip(sums, weights, strict=True)]


def cut_windows(clip: int, wave: NDArray[np.float32], window_frames: int, overlap_frames: int) -> list[_Window]:
    """The whole clip as one window, or several of exactly `window_frames`, overlapping by at least `overlap_frames`."""
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
    """Items of rising sizes, (size, item), in batches of at most `limit`, as if all were as large as the last."""
    batch: list[Item] = []
    for size, item in items:
        if batch and (len(batch) + 1) * size > limit:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _fade(frames: int, overlap_frames: int) -> NDArray[np.float32]:
    """Weight of each row of a window, (rows, 1): rising over the overlap, 1 within, falling at the end.

    The sum of all windows' weights divides the result, so a clip's own ends keep their full value.
    """
    up = np.minimum(np.arange(1, frames + 1) / (overlap_frames + 1), 1.0)
    fade: NDArray[np.float32] = np.minimum(up, up[::-1]).astype(np.float32)[:, None]
    return fade
