"""Duplicate recordings of a dataset: the same samples, or the same take encoded or scaled differently. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CORRELATION = 0.97
"""Least correlation of two fingerprints for two files to count as one take. Encoded copies give 0.98 and more, other
sentences of one voice below 0.9."""
MIN_SLOTS = 62
"""Fewest slots to compare, two seconds: short words resemble each other."""
MAX_SHIFT = 3
"""Slots by which codecs shift the start."""
LENGTH_SLACK = 0.15
"""Seconds by which the lengths of copies may differ."""
MAX_COMPARED = 300
"""Files of about the same length that a file is compared with, to bound the time for thousands of them."""


def same_samples(digests: Sequence[str | None]) -> list[list[int]]:
    """Groups of positions with equal digests; None equals nothing."""
    groups: dict[str, list[int]] = {}
    for position, digest in enumerate(digests):
        if digest is not None:
            groups.setdefault(digest, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def same_takes(fingerprints: Sequence[NDArray[np.int8]], seconds: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of positions with similar fingerprints; `seconds` has the lengths of the files."""
    order = sorted(range(len(fingerprints)), key=lambda position: seconds[position])
    pairs = []
    for rank, one in enumerate(order):
        for other in order[rank + 1 : rank + 1 + MAX_COMPARED]:
            if seconds[other] - seconds[one] > LENGTH_SLACK:
                break
            if correlation(fingerprints[one], fingerprints[other]) >= MIN_CORRELATION:
                pairs.append((min(one, other), max(one, other)))
    return sorted(pairs)


def correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    """The greatest correlation of two fingerprints (slots, bands) over small shifts, without the mean of each band.

    -1 where one is too short.
    """
    slots = min(len(one), len(other)) - MAX_SHIFT
    if slots < MIN_SLOTS:
        return -1.0
    best = -1.0
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        a = one[max(shift, 0) :][:slots].astype(np.float32)
        b = other[max(-shift, 0) :][:slots].astype(np.float32)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
        best = max(best, float((a * b).sum()) / norm if norm else -1.0)
    return best
