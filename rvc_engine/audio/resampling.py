"""Resampling of a recording, block by block, to one rate. No torch."""

from collections.abc import Iterator

import numpy as np
import soxr
from numpy.typing import NDArray


class Resampler:
    """Resampling of consecutive blocks, whose own rate may change on the way, to one rate."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._rate = 0
        self._stream: soxr.ResampleStream | None = None

    def add(self, mono: NDArray[np.float32], rate: int) -> Iterator[NDArray[np.float32]]:
        """Resample the next samples, (num_samples,), at `rate` Hz: blocks that are complete by now."""
        if rate != self._rate:
            yield from self.finish()
            self._rate = rate
            if rate != self._sample_rate:
                self._stream = soxr.ResampleStream(rate, self._sample_rate, 1, dtype="float32")
        out = self._stream.resample_chunk(mono) if self._stream is not None else mono
        if len(out):
            yield out

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """The rest. Call once after the last block."""
        if self._stream is not None:
            yield self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            self._stream = None
