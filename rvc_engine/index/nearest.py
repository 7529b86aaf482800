"""Nearest of many centres for each row, by one matrix product; in bf16 on CPUs with bf16 instructions.

A product in bf16 takes less than half the time, and finds another centre than float32 only where two are about equally
near: for one or two rows of a hundred, which are farther from it by a negligible distance.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rvc_engine.compute.precision import cpu_supports_bf16

Rows = NDArray[np.float32]
Numbers = NDArray[np.int64]

SCORES_AT_ONCE = 2**22
"""Scores of one product, few enough to be in the CPU's cache when the maximum is taken."""
MAX_ROWS_AT_ONCE = 4096
ROWS_STEP, CENTRES_STEP = 512, 64
"""Sizes of products are rounded up to multiples of these, because oneDNN caches code for every size."""
BIAS_COLUMNS = 3
"""A float32 number as a sum of this many bf16 numbers."""
NO_CENTRE = -1e38


class Nearest:
    """Search for the nearest of some centres, by the largest x·c - |c|²/2."""

    def __init__(self, centres: Rows, origin: Rows | None = None, dtype: torch.dtype | None = None) -> None:
        """Prepare centres, (count, size).

        `origin`, (size,), is subtracted before rounding to `dtype`: by default the mean of the centres. `dtype` is that
        of the product: by default bf16 where the CPU has instructions for it, else float32.
        """
        dtype = dtype or (torch.bfloat16 if cpu_supports_bf16() else torch.float32)
        origin = centres.mean(axis=0) if origin is None else origin
        shifted = centres - origin
        count, self._size = shifted.shape
        self._origin = torch.from_numpy(origin)
        padded = _round_up(count, CENTRES_STEP)
        # The bias is part of the product, which saves a pass over all scores.
        self._centres = torch.zeros(padded, self._size + BIAS_COLUMNS, dtype=dtype)
        self._centres[:count, : self._size] = torch.from_numpy(shifted)
        rest = torch.full((padded,), NO_CENTRE)
        rest[:count] = torch.from_numpy(np.einsum("cd,cd->c", shifted, shifted) / -2)
        for column in range(self._size, self._size + BIAS_COLUMNS):
            self._centres[:, column] = rest
            rest -= self._centres[:, column]
        self._rows_at_once = min(MAX_ROWS_AT_ONCE, _round_up(max(1, SCORES_AT_ONCE // padded), ROWS_STEP))
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(self, rows: Rows) -> Numbers:
        """The number of the centre nearest to each row, (N,), for rows (N, size)."""
        numbers = torch.empty(len(rows), dtype=torch.int64)
        for start in range(0, len(rows), self._rows_at_once):
            block = torch.from_numpy(rows[start : start + self._rows_at_once])
            padded = _round_up(len(block), ROWS_STEP)
            shifted, scores = (buffer[:padded] for buffer in self._buffers or self._make_buffers(padded))
            torch.sub(block, self._origin, out=shifted[: len(block), : self._size])
            torch.mm(shifted, self._centres.T, out=scores)
            numbers[start : start + len(block)] = scores[: len(block)].max(dim=1).indices
        return numbers.numpy()

    def _make_buffers(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Buffers for rows and scores. Those of full size are reused: new memory costs a page fault every 4 KiB."""
        width, dtype = self._centres.shape[1], self._centres.dtype
        buffers = torch.zeros(num_rows, width, dtype=dtype), torch.empty(num_rows, len(self._centres), dtype=dtype)
        buffers[0][:, self._size :] = 1
        if num_rows == self._rows_at_once:
            self._buffers = buffers
        return buffers


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
