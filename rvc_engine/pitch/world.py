"""DIO with StoneMask, and Harvest: the estimators of the WORLD vocoder (Morise et al., 2016, 2017). No net."""

import functools
import importlib.machinery
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, SAMPLE_RATE, fit_length, num_frames

_FRAME_MILLISECONDS = 1000 * HOP_LENGTH / SAMPLE_RATE
_SHORTEST_SAMPLES = 2 * HOP_LENGTH
"""WORLD gives nonsense for clips of a frame or less."""


@functools.cache
def _world() -> Any:
    """pyworld's compiled module, loaded without its package.

    The package asks `pkg_resources` for its own version when it is imported, and setuptools has that module no more.
    """
    package = importlib.util.find_spec("pyworld")
    if package is None:
        raise ModuleNotFoundError("pyworld is not installed; install rvc-train[engine]", name="pyworld")
    spec = importlib.machinery.PathFinder.find_spec("pyworld.pyworld", package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class DioEstimator:
    """DIO refined by StoneMask: fast; it takes noise for voice and loses quiet voice more often than the others."""

    name = "dio"
    batch_size = 8
    threads_per_call: int | None = 1

    def __init__(self) -> None:
        """Raises ModuleNotFoundError when pyworld is not installed."""
        self._world = _world()  # here and once: two threads must not load it at the same time

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._one(wave) for wave in waves_16k]

    def _one(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        if len(wave) < _SHORTEST_SAMPLES:
            return np.zeros(num_frames(len(wave)))
        samples = wave.astype(np.float64)
        hz, times = self._world.dio(
            samples, SAMPLE_RATE, f0_floor=MIN_HZ, f0_ceil=MAX_HZ, frame_period=_FRAME_MILLISECONDS
        )
        return fit_length(self._world.stonemask(samples, hz, times, SAMPLE_RATE), num_frames(len(wave)))


class HarvestEstimator:
    """Harvest: few unvoiced gaps, slow."""

    name = "harvest"
    batch_size = 1
    threads_per_call: int | None = 1

    def __init__(self) -> None:
        """Raises ModuleNotFoundError when pyworld is not installed."""
        self._world = _world()  # here and once: two threads must not load it at the same time

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """See `PitchEstimator.estimate`."""
        return [self._one(wave) for wave in waves_16k]

    def _one(self, wave: NDArray[np.float32]) -> NDArray[np.float64]:
        if len(wave) < _SHORTEST_SAMPLES:
            return np.zeros(num_frames(len(wave)))
        hz, _ = self._world.harvest(
            wave.astype(np.float64), SAMPLE_RATE, f0_floor=MIN_HZ, f0_ceil=MAX_HZ, frame_period=_FRAME_MILLISECONDS
        )
        return fit_length(hz, num_frames(len(wave)))
