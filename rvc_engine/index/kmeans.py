"""k-means over rows that lie in a file: bounded memory, deterministic with a seed, can be cancelled between batches.

FAISS's own k-means copies its sample, and cannot be interrupted, which may take many minutes.
"""

import mmap
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from rvc_engine.index.nearest import Nearest, Numbers, Rows

BATCH_ROWS = 4096
ROWS_READ = 256
"""From a file at once: with each of them its neighbourhood in the file comes into memory."""
ROWS_PER_CELL = 256
"""In the sample that the cells are found from."""
CELL_ITERATIONS = 10
CENTRE_ITERATIONS = 5
"""Within a cell."""
MAX_PART_ROWS = 16_384
"""A larger cell is taken in parts, each with its share of the centres: a voice may hold much of the same."""
REFINING_PASSES = 2
NEAR_CELLS = 8
"""With the centres of so many cells, those nearest to its own, a row is compared. With 16, centres lie 0.3 % nearer on
301,000 rows of speech, and a pass takes two thirds longer."""

ProgressCallback = Callable[[float], None]
"""Called with the share that is done; may raise, to stop."""


def minibatch_kmeans(rows: Rows, count: int, passes: int, seed: int, progress: ProgressCallback) -> Rows:
    """`count` centres, (count, size), of rows (N, size), by mini-batch k-means. Pages of a mapped file stay meanwhile.

    Every pass goes through all rows in a new order. A centre is the mean of the rows that it was nearest to, so far in
    the pass; before the first it is a row (Sculley, "Web-scale k-means clustering", 2010).
    """
    rng = np.random.default_rng(seed)
    centres = _random_rows(rows, count, rng)
    starts = range(0, len(rows), BATCH_ROWS)
    for number in range(passes):
        order = rng.permutation(len(rows))
        weights = np.zeros(count)
        for done, start in enumerate(starts):
            progress((number + done / len(starts)) / passes)
            batch = rows[np.sort(order[start : start + BATCH_ROWS])]
            sums, counts = segment_sum(batch, Nearest(centres)(batch), count)
            is_met = counts > 0
            weights += counts
            share = (counts[is_met] / weights[is_met])[:, None]
            means = sums[is_met] / counts[is_met, None]
            centres[is_met] += (share * (means - centres[is_met])).astype(np.float32)
    release_pages(rows)
    return centres


def two_level_kmeans(rows: Rows, count: int, seed: int, progress: ProgressCallback) -> Rows:
    """`count` centres, (count, size), of rows (N, size), N >= count, where there are so many that all with all is long.

    Rows are sorted into cells: sqrt(count) of them, so that each has about as many centres. Centres are found in each
    cell by k-means over its rows alone, and refined by passes over all rows, each compared with the centres of the
    cells nearest to its own.
    """
    rng = np.random.default_rng(seed)
    num_cells = round(count**0.5)
    progress(0)
    sample = _random_rows(rows, min(len(rows), num_cells * ROWS_PER_CELL), rng)
    cells = _kmeans(sample, num_cells, CELL_ITERATIONS, rng)
    members = _assign_cells(rows, cells, lambda share: progress(0.1 * share))
    centres = _centres_by_cell(rows, count, members, rng, lambda share: progress(0.1 + 0.4 * share))
    for number in range(REFINING_PASSES):
        centres = _refine(rows, centres, cells, members, partial(_report_pass, progress, number))
    return centres


def _report_pass(progress: ProgressCallback, number: int, share: float) -> None:
    progress(0.5 + 0.5 * (number + share) / REFINING_PASSES)


def release_pages(rows: Rows) -> None:
    """Release the pages of a mapped file that were read, which count as this process's memory otherwise."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def take_rows(rows: Rows, numbers: Numbers) -> Rows:
    """A copy of some rows; of a file no more comes into memory than it must."""
    taken = np.empty((len(numbers), rows.shape[1]), np.float32)
    for start in range(0, len(numbers), ROWS_READ):
        taken[start : start + ROWS_READ] = rows[numbers[start : start + ROWS_READ]]
        release_pages(rows)
    return taken


def _random_rows(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    return take_rows(rows, np.sort(rng.choice(len(rows), count, replace=False)))


def segment_sum(block: Rows, nearest: Numbers, count: int) -> tuple[Rows, Numbers]:
    """Sums (count, size) and numbers (count,) of the rows nearest to each of `count` centres."""
    places = (nearest, np.arange(len(block)))
    membership = scipy.sparse.csr_matrix((np.ones(len(block), np.float32), places), shape=(count, len(block)))
    return membership @ block, np.bincount(nearest, minlength=count)


def _kmeans(rows: Rows, count: int, iterations: int, rng: np.random.Generator) -> Rows:
    """Lloyd's, from `count` of the rows; a centre that is nearest to none stays."""
    centres = _random_rows(rows, count, rng)
    for _ in range(iterations):
        sums, counts = segment_sum(rows, Nearest(centres)(rows), count)
        is_met = counts > 0
        centres[is_met] = sums[is_met] / counts[is_met, None]
    return centres


def _assign_cells(rows: Rows, cells: Rows, progress: ProgressCallback) -> list[Numbers]:
    """The numbers of each cell's rows, in order."""
    nearest, near = np.empty(len(rows), np.int64), Nearest(cells)
    for start in range(0, len(rows), BATCH_ROWS):
        progress(start / len(rows))
        nearest[start : start + BATCH_ROWS] = near(np.array(rows[start : start + BATCH_ROWS]))
        release_pages(rows)
    return _numbers_by(nearest, len(cells))


def _numbers_by(nearest: Numbers, count: int) -> list[Numbers]:
    """For each of `count` centres the places in `nearest` where it stands."""
    ends = np.cumsum(np.bincount(nearest, minlength=count))
    return np.split(np.argsort(nearest, kind="stable"), ends[:-1])


def _centres_by_cell(
    rows: Rows, count: int, members: list[Numbers], rng: np.random.Generator, progress: ProgressCallback
) -> Rows:
    """The centres of each cell's own rows, as many as its share of all rows is worth."""
    parts = [part for numbers in members for part in _split(numbers)]
    ends = np.cumsum([0, *map(len, parts)])
    # Rounding the running total keeps the sum, and gives no part more centres than it has rows.
    firsts = np.rint(ends * (count / len(rows))).astype(np.int64)
    centres = np.empty((count, rows.shape[1]), np.float32)
    for part, done, first, end in zip(parts, ends[:-1], firsts[:-1], firsts[1:], strict=True):
        progress(float(done / len(rows)))
        if end > first:
            centres[first:end] = _kmeans(take_rows(rows, part), int(end - first), CENTRE_ITERATIONS, rng)
    return centres


def _split(numbers: Numbers) -> Iterator[Numbers]:
    """Every n-th of the numbers, from each of the first n, where all are too many."""
    count = -(-len(numbers) // MAX_PART_ROWS)
    return (numbers[first::count] for first in range(count))


def _refine(rows: Rows, centres: Rows, cells: Rows, members: list[Numbers], progress: ProgressCallback) -> Rows:
    """The means of the rows nearest to each centre; a centre that is nearest to none stays."""
    sums, counts = np.zeros_like(centres), np.zeros(len(centres), np.int64)
    centres_in = _numbers_by(Nearest(cells)(centres), len(cells))
    done = 0
    for cell, near_cells, numbers in zip(cells, _near_cells(cells), members, strict=True):
        candidates = np.concatenate([centres_in[near] for near in near_cells])
        if not len(candidates):  # no centre lies in these cells: their rows change none
            done += len(numbers)
            continue
        near = Nearest(centres[candidates], cell)
        for start in range(0, len(numbers), BATCH_ROWS):
            progress(done / len(rows))
            block = take_rows(rows, numbers[start : start + BATCH_ROWS])
            block_sums, block_counts = segment_sum(block, near(block), len(candidates))
            sums[candidates] += block_sums
            counts[candidates] += block_counts
            done += len(block)
    is_met = counts > 0
    sums[is_met] /= counts[is_met, None]
    sums[~is_met] = centres[~is_met]
    return sums


def _near_cells(cells: Rows) -> NDArray[np.int64]:
    """The numbers of the NEAR_CELLS nearest to each cell, itself among them, (num_cells, at most NEAR_CELLS)."""
    squares = np.square(cells, dtype=np.float64).sum(axis=1)
    distances = squares[:, None] + squares - 2 * cells.astype(np.float64) @ cells.T
    np.fill_diagonal(distances, -1)  # of equal cells too, each is its own nearest
    return np.argsort(distances, axis=1, kind="stable")[:, :NEAR_CELLS]
