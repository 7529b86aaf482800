"""k-means over rows in a file: bounded memory, deterministic for a seed, can be cancelled between batches.

FAISS's own k-means copies its sample, and cannot be interrupted for what may be many minutes.
"""

import mmap
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from rvc_engine.index.device_kmeans import DeviceMeans
from rvc_engine.index.nearest import Nearest, Numbers, Rows

BATCH_ROWS = 4096
ROWS_READ = 256
"""Rows read from a file at once: each also brings its neighbourhood in the file into memory."""
ROWS_PER_CELL = 256
"""Rows per cell in the sample that cells are computed from."""
CELL_ITERATIONS = 10
CENTRE_ITERATIONS = 5
"""Iterations for the centres of a cell."""
MAX_PART_ROWS = 16_384
"""Larger cells, of voices with many similar rows, are split into parts, each with its share of the centres."""
REFINING_PASSES = 2
NEAR_CELLS = 8
"""A row is compared with the centres of this many cells, those nearest to its own. With 16 cells, centres are 0.3 %
nearer on 301,000 rows of speech, but a pass takes two thirds longer."""

ProgressCallback = Callable[[float], None]
"""Callback for the share that is done, 0..1; it may raise an exception to stop the work."""


def progress_part(progress: ProgressCallback, start: float, end: float) -> ProgressCallback:
    """The callback for a part of the work, from `start` to `end` of the whole."""
    return lambda share: progress(start + share * (end - start))


def minibatch_kmeans(
    rows: Rows, count: int, passes: int, seed: int, progress: ProgressCallback, device: torch.device | None = None
) -> Rows:
    """Compute `count` centres, (count, size), of rows (N, size), by mini-batch k-means; on a device if one is given.

    Every pass visits all rows in a new order. A centre is the mean of the rows nearest to it so far in the pass, and
    starts as a row (Sculley, "Web-scale k-means clustering", 2010). Pages of a mapped file are released at the end.
    """
    rng = np.random.default_rng(seed)
    centres = _random_rows(rows, count, rng)
    means = _RunningMeans(centres) if device is None else DeviceMeans(centres, device)
    starts = range(0, len(rows), BATCH_ROWS)
    for number in range(passes):
        order = rng.permutation(len(rows))
        means.begin_pass()
        for done, start in enumerate(starts):
            progress((number + done / len(starts)) / passes)
            means.add(rows[np.sort(order[start : start + BATCH_ROWS])])
    release_pages(rows)
    return means.result()


class _RunningMeans:
    """Centres on the CPU, moved by mini-batches."""

    def __init__(self, centres: Rows) -> None:
        """`centres`: (count, size), changed in place."""
        self._centres, self._weights = centres, np.zeros(len(centres))

    def begin_pass(self) -> None:
        """Forget how many rows each centre has been moved by."""
        self._weights[:] = 0

    def add(self, batch: Rows) -> None:
        """Move each centre towards the mean of the rows of a batch that are nearest to it."""
        sums, counts = segment_sum(batch, Nearest(self._centres)(batch), len(self._centres))
        is_met = counts > 0
        self._weights += counts
        share = (counts[is_met] / self._weights[is_met])[:, None]
        means = sums[is_met] / counts[is_met, None]
        self._centres[is_met] += (share * (means - self._centres[is_met])).astype(np.float32)

    def result(self) -> Rows:
        """The centres, (count, size)."""
        return self._centres


def two_level_kmeans(rows: Rows, count: int, seed: int, progress: ProgressCallback) -> Rows:
    """Compute `count` centres, (count, size), of rows (N, size), N >= count, too many to compare all with all.

    Rows are assigned to sqrt(count) cells, so that each has about as many centres. The centres of each cell are found
    by k-means over its rows alone, and refined by passes over all rows, in which each row is compared with the centres
    of the cells nearest to its own.
    """
    rng = np.random.default_rng(seed)
    num_cells = round(count**0.5)
    progress(0)
    sample = _random_rows(rows, min(len(rows), num_cells * ROWS_PER_CELL), rng)
    cells = _kmeans(sample, num_cells, CELL_ITERATIONS, rng)
    members = _assign_cells(rows, cells, progress_part(progress, 0, 0.1))
    centres = _centres_by_cell(rows, count, members, rng, progress_part(progress, 0.1, 0.5))
    for number in range(REFINING_PASSES):
        refining = progress_part(progress, 0.5, 1)
        part = progress_part(refining, number / REFINING_PASSES, (number + 1) / REFINING_PASSES)
        centres = _refine(rows, centres, cells, members, part)
    return centres


def release_pages(rows: Rows) -> None:
    """Release the pages of a mapped file that were read; otherwise they count as memory of this process."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def take_rows(rows: Rows, numbers: Numbers) -> Rows:
    """Copy some rows, with as little of their file in memory as possible."""
    taken = np.empty((len(numbers), rows.shape[1]), np.float32)
    for start in range(0, len(numbers), ROWS_READ):
        taken[start : start + ROWS_READ] = rows[numbers[start : start + ROWS_READ]]
        release_pages(rows)
    return taken


def _random_rows(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    return take_rows(rows, np.sort(rng.choice(len(rows), count, replace=False)))


def segment_sum(block: Rows, nearest: Numbers, count: int) -> tuple[Rows, Numbers]:
    """Sums (count, size) and numbers (count,) of the rows nearest to each of `count` centres."""
    sums = torch.zeros(count, block.shape[1]).index_add_(0, torch.from_numpy(nearest), torch.from_numpy(block))
    return sums.numpy(), np.bincount(nearest, minlength=count)


def _means(sums: Rows, counts: Numbers, centres: Rows) -> Rows:
    """The means by `sums` and `counts` of rows; the old centre where there are no rows."""
    is_met = counts > 0
    means = centres.copy()
    means[is_met] = sums[is_met] / counts[is_met, None]
    return means


def _kmeans(rows: Rows, count: int, iterations: int, rng: np.random.Generator) -> Rows:
    """Lloyd's algorithm, from `count` of the rows."""
    centres = _random_rows(rows, count, rng)
    for _ in range(iterations):
        sums, counts = segment_sum(rows, Nearest(centres)(rows), count)
        centres = _means(sums, counts, centres)
    return centres


def _assign_cells(rows: Rows, cells: Rows, progress: ProgressCallback) -> list[Numbers]:
    """The numbers of the rows of each cell, ascending."""
    nearest, near = np.empty(len(rows), np.int64), Nearest(cells)
    for start in range(0, len(rows), BATCH_ROWS):
        progress(start / len(rows))
        nearest[start : start + BATCH_ROWS] = near(np.array(rows[start : start + BATCH_ROWS]))
        release_pages(rows)
    return _numbers_by(nearest, len(cells))


def _numbers_by(nearest: Numbers, count: int) -> list[Numbers]:
    """The positions in `nearest` of each of `count` centres, ascending."""
    ends = np.cumsum(np.bincount(nearest, minlength=count))
    return np.split(np.argsort(nearest, kind="stable"), ends[:-1])


def _centres_by_cell(
    rows: Rows, count: int, members: list[Numbers], rng: np.random.Generator, progress: ProgressCallback
) -> Rows:
    """Compute the centres of each cell's rows, in proportion to their number."""
    parts = [part for numbers in members for part in _split(numbers)]
    ends = np.cumsum([0, *map(len, parts)])
    # Rounding the running total preserves the sum, and gives no part more centres than it has rows.
    firsts = np.rint(ends * (count / len(rows))).astype(np.int64)
    centres = np.empty((count, rows.shape[1]), np.float32)
    for part, done, first, end in zip(parts, ends[:-1], firsts[:-1], firsts[1:], strict=True):
        progress(float(done / len(rows)))
        if end > first:
            centres[first:end] = _kmeans(take_rows(rows, part), int(end - first), CENTRE_ITERATIONS, rng)
    return centres


def _split(numbers: Numbers) -> Iterator[Numbers]:
    """Split numbers into interleaved parts of at most MAX_PART_ROWS."""
    count = -(-len(numbers) // MAX_PART_ROWS)
    return (numbers[first::count] for first in range(count))


def _refine(rows: Rows, centres: Rows, cells: Rows, members: list[Numbers], progress: ProgressCallback) -> Rows:
    """One iteration of k-means over all rows, in which a row is compared with the centres of the near cells alone."""
    sums, counts = np.zeros_like(centres), np.zeros(len(centres), np.int64)
    centres_in = _numbers_by(Nearest(cells)(centres), len(cells))
    done = 0
    for cell, near_cells, numbers in zip(cells, _near_cells(cells), members, strict=True):
        candidates = np.concatenate([centres_in[near] for near in near_cells])
        if len(candidates):  # else no centre is near enough to these rows to be changed by them
            near = Nearest(centres[candidates], cell)
            for start in range(0, len(numbers), BATCH_ROWS):
                progress((done + start) / len(rows))
                block = take_rows(rows, numbers[start : start + BATCH_ROWS])
                block_sums, block_counts = segment_sum(block, near(block), len(candidates))
                sums[candidates] += block_sums
                counts[candidates] += block_counts
        done += len(numbers)
    return _means(sums, counts, centres)


def _near_cells(cells: Rows) -> NDArray[np.int64]:
    """The numbers of the NEAR_CELLS nearest to each cell, itself included, (num_cells, at most NEAR_CELLS)."""
    squares = np.square(cells, dtype=np.float64).sum(axis=1)
    distances = squares[:, None] + squares - 2 * cells.astype(np.float64) @ cells.T
    np.fill_diagonal(distances, -1)  # each cell is its own nearest, even where cells are equal
    return np.argsort(distances, axis=1, kind="stable")[:, :NEAR_CELLS]
