"""Silence: the level of a recording per 15 ms, the spans of sound between silences, parts made silent. No torch.

The rule is the reference's (FORMATS: "Slices"; explained in the recipe of the golden numbers), so that the same
recording gives the same slices. Lengths below are in frames of 15 ms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.parts import Parts

THRESHOLD = 10 ** (-42 / 20)
"""Root mean square below which a frame is silent: -42 dB of full scale."""
HOP_SECONDS = 0.015
WINDOW_HOPS = 4
MIN_LENGTH = 100
"""Fewest frames (1500 ms) between two cuts."""
MIN_INTERVAL = 27
"""Fewest frames (400 ms) of silence at a cut."""
MAX_KEPT = 33
"""Most frames (500 ms) of silence kept on either side of a cut."""


class Levels:
    """The root mean square and the peak of a recording per frame, computed from blocks of any size."""

    def __init__(self, sample_rate: int) -> None:
        self.hop_length = round(HOP_SECONDS * sample_rate)
        self.num_samples = 0
        self._energies: list[NDArray[np.float64]] = []
        self._peaks: list[NDArray[np.float32]] = []
        self._rest = np.zeros(0)

    def add(self, block: NDArray[np.floating]) -> None:
        """Add the next samples, (num_samples,)."""
        self.num_samples += len(block)
        samples = np.concatenate([self._rest, block])
        num_whole = len(samples) // self.hop_length
        whole, self._rest = np.split(samples, [num_whole * self.hop_length])
        if num_whole:
            hops = whole.reshape(num_whole, self.hop_length)
            self._energies.append(np.einsum("ij,ij->i", hops, hops))
            self._peaks.append(np.maximum(hops.max(axis=1), -hops.min(axis=1)).astype(np.float32))

    def rms(self) -> NDArray[np.float64]:
        """(1 + num_samples // hop_length,): frame k is centred on sample k * hop_length; both ends are zero-padded."""
        half = WINDOW_HOPS // 2
        energies = np.concatenate([np.zeros(half), *self._energies, [self._rest @ self._rest], np.zeros(half)])
        sums = np.lib.stride_tricks.sliding_window_view(energies, WINDOW_HOPS).sum(axis=1)
        num_frames = 1 + self.num_samples // self.hop_length
        rms: NDArray[np.float64] = np.sqrt(sums[:num_frames] / (WINDOW_HOPS * self.hop_length))
        return rms

    def is_loud(self) -> NDArray[np.bool_]:
        """(1 + num_samples // hop_length,): whether a frame is above the threshold."""
        return self.rms() >= THRESHOLD

    def sound_seconds(self) -> float:
        """Seconds above the threshold."""
        return float(np.count_nonzero(self.is_loud())) * HOP_SECONDS

    def peak(self, start: int, end: int) -> float:
        """The largest sample from `start` to `end`, rounded outwards to whole hops."""
        if len(self._peaks) > 1:
            self._peaks = [np.concatenate(self._peaks)]
        whole = self._peaks[0] if self._peaks else np.zeros(0, np.float32)
        peak = float(whole[start // self.hop_length : -(-end // self.hop_length)].max(initial=0.0))
        is_at_end = end > len(whole) * self.hop_length
        return max(peak, float(np.abs(self._rest).max(initial=0.0))) if is_at_end else peak


def silenced(samples: NDArray[np.float32], start_seconds: float, sample_rate: int, parts: Parts) -> NDArray[np.float32]:
    """The samples with zeros in the parts, (num_samples, channels), which begin at `start_seconds` of a recording."""
    end_seconds = start_seconds + len(samples) / sample_rate
    inside = [part for part in parts if part.start < end_seconds and part.end > start_seconds]
    if inside:
        samples = samples.copy()
    for part in inside:
        first, last = (max(0, round((seconds - start_seconds) * sample_rate)) for seconds in part)
        samples[first:last] = 0
    return samples


def loud_spans(rms: NDArray[np.float64], num_samples: int, hop_length: int) -> Iterator[tuple[int, int]]:
    """Spans between the long silences, (start, end) in samples, each with at most 0.5 s of silence on a side."""
    if -(-num_samples // hop_length) <= MIN_LENGTH:
        yield 0, num_samples
        return
    start = 0
    for drop_from, drop_to in _dropped_ranges(rms):
        if drop_from > start:
            yield start * hop_length, min(drop_from * hop_length, num_samples)
        start = drop_to
    if start * hop_length < num_samples:
        yield start * hop_length, num_samples


def _dropped_ranges(rms: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Ranges that are removed, (from, to) in frames; an empty range is a split without removal."""
    last_cut = 0
    for start, end in _silent_runs(rms):
        if end == len(rms):
            if end - start >= MIN_INTERVAL:
                yield _quietest(rms, start, start + MAX_KEPT), end
            return
        is_leading = start == 0 and end > MAX_KEPT
        is_between = end - start >= MIN_INTERVAL and end - last_cut >= MIN_LENGTH
        if is_leading or is_between:
            drop_from, last_cut = _cut(rms, start, end)
            yield drop_from, last_cut


def _silent_runs(rms: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Runs of silent frames, (first silent frame, next loud frame or the number of frames)."""
    is_silent = np.concatenate([[False], rms < THRESHOLD, [False]])
    edges = np.flatnonzero(is_silent[1:] != is_silent[:-1])
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _cut(rms: NDArray[np.float64], start: int, end: int) -> tuple[int, int]:
    """The range of a silent run that is removed: its quietest frame near the start to the quietest near the end."""
    if end - start <= MAX_KEPT:
        quietest = _quietest(rms, start, end)
        return (0 if start == 0 else quietest), quietest
    near_start = _quietest(rms, start, start + MAX_KEPT)
    near_end = _quietest(rms, end - MAX_KEPT, end)
    if start == 0:
        return 0, near_end
    if end - start <= 2 * MAX_KEPT:
        between = _quietest(rms, end - MAX_KEPT, start + MAX_KEPT)
        return min(near_start, between), max(near_end, between)
    return near_start, near_end


def _quietest(rms: NDArray[np.float64], first: int, last: int) -> int:
    """The quietest frame from `first` to `last`, both included."""
    return first + int(np.argmin(rms[first : last + 1]))
