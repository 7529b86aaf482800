"""The 48 Hz high-pass of slicing, for the report: by matrix products, without scipy, whose import takes long.

Butterworth, order 5, causal, starting from silence: the output of `scipy.signal.lfilter` within 1e-5. Silence after
sound decays to nothing, as it does there, so that both find the same quietest frame in it.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HIGH_PASS_HZ = 48
HIGH_PASS_ORDER = 5
SAMPLE_RATE = 40_000
"""Hz: the default rate of a voice."""
BLOCK = 128
"""Samples that are filtered by one product."""
PART = 2**10 * BLOCK
"""Samples that are filtered at once; memory stays small however long the blocks are."""
FADED = 1e-150
"""State below which silence gives zeros."""
NUM_STATES = 6
"""Two for each of three sections."""


class _Matrices(NamedTuple):
    of_samples: NDArray[np.float64]
    """(BLOCK, BLOCK + NUM_STATES): output of a block that starts from silence, and the state after it."""
    of_state: NDArray[np.float64]
    """(NUM_STATES, BLOCK): output of a silent block that starts from a state."""
    after: NDArray[np.float64]
    """(NUM_STATES, NUM_STATES): state after a silent block."""


class HighPass:
    """The filter for consecutive blocks of one recording at SAMPLE_RATE."""

    def __init__(self) -> None:
        self._state = np.zeros(NUM_STATES)
        self._rest = np.zeros(0)

    def add(self, block: NDArray[np.floating]) -> Iterator[NDArray[np.float64]]:
        """Filter the next samples, (num_samples,), in parts; a last one shorter than BLOCK waits for the next call."""
        samples = np.concatenate([self._rest.astype(block.dtype), block])
        num_whole = len(samples) // BLOCK * BLOCK
        self._rest = samples[num_whole:]
        for start in range(0, num_whole, PART):
            yield self._filter(samples[start : min(start + PART, num_whole)].astype(np.float64).reshape(-1, BLOCK))

    def finish(self) -> NDArray[np.float64]:
        """The part that waits. Call once, after the last block."""
        padded = np.zeros((1, BLOCK))
        padded[0, : len(self._rest)] = self._rest
        return self._filter(padded)[: len(self._rest)]

    def _filter(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if np.abs(self._state).max() < FADED and not rows.any():
            return np.zeros(rows.size)
        matrices = _matrices()
        found = rows @ matrices.of_samples
        starts = np.empty((len(rows), NUM_STATES))
        for number, added in enumerate(found[:, BLOCK:]):
            starts[number] = self._state
            self._state = matrices.after @ self._state + added
        filtered: NDArray[np.float64] = found[:, :BLOCK] + starts @ matrices.of_state
        return filtered.reshape(-1)


@functools.cache
def _matrices() -> _Matrices:
    step, added, output, direct = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    for section in _sections():  # the state-space form of each, in series with those before it
        (b0, b1, b2), (a1, a2) = section
        its_step = np.array([[-a1, 1.0], [-a2, 0.0]])
        its_added = np.array([b1 - a1 * b0, b2 - a2 * b0])
        size = len(added)
        step = np.block([[step, np.zeros((size, 2))], [np.outer(its_added, output), its_step]])
        added = np.concatenate([added, its_added * direct])
        output, direct = np.concatenate([b0 * output, [1.0, 0.0]]), b0 * direct
    powers = [np.eye(len(added))]
    for _ in range(BLOCK):
        powers.append(step @ powers[-1])
    response = np.array([direct, *(output @ power @ added for power in powers[: BLOCK - 1])])
    of_samples = np.zeros((BLOCK, BLOCK + len(added)))
    for number in range(BLOCK):
        of_samples[number, number:BLOCK] = response[: BLOCK - number]
        of_samples[number, BLOCK:] = powers[BLOCK - 1 - number] @ added
    return _Matrices(of_samples, np.array([output @ power for power in powers[:BLOCK]]).T, powers[BLOCK])


def _sections() -> list[tuple[tuple[float, float, float], tuple[float, float]]]:
    """Sections of at most second order, (b0, b1, b2), (a1, a2): the bilinear transform of the analogue filter."""
    warped = math.tan(math.pi * HIGH_PASS_HZ / SAMPLE_RATE)
    sections = [((1 / (1 + warped), -1 / (1 + warped), 0.0), ((warped - 1) / (warped + 1), 0.0))]
    for number in range(1, HIGH_PASS_ORDER // 2 + 1):
        damping = 2 * math.cos(math.pi * number / HIGH_PASS_ORDER)
        scale = 1 / (1 + damping * warped + warped**2)
        feedback = (2 * (warped**2 - 1) * scale, (1 - damping * warped + warped**2) * scale)
        sections.append(((scale, -2 * scale, scale), feedback))
    return sections
