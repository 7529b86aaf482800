"""k-means over rows that lie in a file: bounded memory, deterministic with a seed, and it hears between two batches.

FAISS's own k-means copies its sample, and answers nobody until it is through, which may take many minutes.
"""

from collections.abc import Callable

import faiss
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

BATCH_ROWS = 4096

Rows = NDArray[np.float32]
Tick = Callable[[float], None]
"""Hears which share is done; may raise, to stop."""


def centres_of(rows: Rows, count: int, passes: int, seed: int, tick: Tick) -> Rows:
    """`count` centres, (count, size), of rows (N, size), by mini-batch k-means, as the reference reduces large voices.

    Every pass goes through all rows in a new order. A centre is the mean of the rows that it was nearest to, so far in
    the pass; before the first it is a row (Sculley, "Web-scale k-means clustering", 2010).
    """
    generator = np.random.default_rng(seed)
    centres = _first_centres(rows, count, generator)
    starts = range(0, len(rows), BATCH_ROWS)
    for number in range(passes):
        order = generator.permutation(len(rows))
        weights = np.zeros(count)
        for done, start in enumerate(starts):
            tick((number + done / len(starts)) / passes)
            batch = rows[np.sort(order[start : start + BATCH_ROWS])]
            sums, counts = _gathered(batch, centres)
            is_met = counts > 0
            weights += counts
            share = (counts[is_met] / weights[is_met])[:, None]
            means = sums[is_met] / counts[is_met, None]
            centres[is_met] += (share * (means - centres[is_met])).astype(np.float32)
    return centres


def _first_centres(rows: Rows, count: int, generator: np.random.Generator) -> Rows:
    return np.ascontiguousarray(rows[np.sort(generator.choice(len(rows), count, replace=False))])


def _gathered(batch: Rows, centres: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the rows nearest to each centre, the sums (count, size) and how many they are (count,)."""
    _, nearest = faiss.knn(np.ascontiguousarray(batch), centres, 1)
    ones = np.ones(len(batch))
    places = (nearest[:, 0], np.arange(len(batch)))
    membership = scipy.sparse.csr_matrix((ones, places), shape=(len(centres), len(batch)))
    return membership @ batch.astype(np.float64), np.bincount(nearest[:, 0], minlength=len(centres)).astype(np.float64)
