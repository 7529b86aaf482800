"""Recordings that a dataset holds twice: the same samples, or the same take coded or scaled another way. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CORRELATION = 0.97
"""Correlation of two sketches from which two files count as one take. Coded copies give 0.98 and more, other sentences
of one voice below 0.9."""
MIN_SLOTS = 62
"""Two seconds: short words resemble each other."""
MAX_SHIFT = 3
"""Slots by which coders shift the beginning."""
LENGTH_SLACK = 0.15
"""Seconds that copies may differ in length."""
MAX_COMPARED = 300
"""Files of about the same length that one is compared with: thousands of equal ones shall not take hours."""


def same_samples(digests: Sequence[str | None]) -> list[list[int]]:
    """Groups of places with equal digests; None is equal to nothing."""
    groups: dict[str, list[int]] = {}
    for place, digest in enumerate(digests):
        if digest is not None:
            groups.setdefault(digest, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def same_takes(fingerprints: Sequence[NDArray[np.int8]], seconds: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of places whose sound runs alike; `seconds` are the lengths of the files."""
    order = sorted(range(len(fingerprints)), key=lambda place: seconds[place])
    pairs = []
    for rank, one in enumerate(order):
        for other in order[rank + 1 : rank + 1 + MAX_COMPARED]:
            if seconds[other] - seconds[one] > LENGTH_SLACK:
                break
            if correlation(fingerprints[one], fingerprints[other]) >= MIN_CORRELATION:
                pairs.append((min(one, other), max(one, other)))
    return sorted(pairs)


def correlation(one: NDArray[np.int8], other: NDArray[np.int8]) -> float:
    """The greatest correlation of two sketches over small shifts, each band's mean aside; -1 for short ones."""
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
