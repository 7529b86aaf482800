"""Peaks of a whole dataset, one recording after another, in a few hundred numbers for a plot. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PEAKS_A_SECOND = 10
MAX_PEAKS = 600
MAX_STARTS = 200
"""With more recordings, the marks between them would hide the plot."""


@dataclass(frozen=True)
class Overview:
    """Data of the plot."""

    peaks: list[float] = field(default_factory=list)
    """0..1, the largest sample of each of at most `MAX_PEAKS` equal parts of the time."""
    starts: list[float] = field(default_factory=list)
    """Start of each recording, 0..1 of the whole; empty where there are more than `MAX_STARTS`."""


class Envelope:
    """Peaks of one recording per tenth of a second, computed block by block."""

    def __init__(self) -> None:
        self._peaks: list[NDArray[np.float32]] = []
        self._rest: NDArray[np.floating] = np.zeros(0, np.float32)

    def add(self, mono: NDArray[np.floating], rate: int) -> None:
        """Add the next samples, (num_samples,), full scale 1."""
        length = max(rate // PEAKS_A_SECOND, 1)
        loudness = np.concatenate([self._rest, np.abs(mono)])
        whole = len(loudness) // length * length
        self._peaks.append(loudness[:whole].reshape(-1, length).max(1).astype(np.float32))
        self._rest = loudness[whole:]

    def result(self) -> NDArray[np.float32]:
        """All peaks, including that of the unfinished last part."""
        last = [np.float32(self._rest.max())] if len(self._rest) else []
        return np.concatenate([*self._peaks, np.asarray(last, np.float32)])


def draw(envelopes: Sequence[NDArray[np.float32]]) -> Overview:
    """The overview of all recordings, in their order."""
    peaks = np.concatenate([np.zeros(0, np.float32), *envelopes])
    if not len(peaks):
        return Overview()
    parts = np.array_split(peaks, min(MAX_PEAKS, len(peaks)))
    ends = np.cumsum([len(envelope) for envelope in envelopes])
    starts = [0.0, *(ends[:-1] / len(peaks)).round(4).tolist()] if len(envelopes) <= MAX_STARTS else []
    return Overview([round(min(float(part.max()), 1.0), 3) for part in parts], starts)
