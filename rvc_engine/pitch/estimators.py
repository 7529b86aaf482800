"""Pitch estimators by name. What each costs and how far they agree: docs/decisions/0001-pitch-estimators.md."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.machine import Machine


class PitchEstimator(Protocol):
    """Estimates F0 curves of clips of one voice."""

    name: str
    batch_size: int
    """Clips of a few seconds to hand over at once: what suits the device. A run can be stopped between two calls."""
    threads_per_call: int | None
    """CPU threads that a call needs at least, where several may go on at once; None: one call at a time."""

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """Pitch of each clip in Hz, 0 where unvoiced.

        Takes clips of one channel at 16 kHz, (num_samples,), of any lengths; gives (num_samples // 160,) for each.
        Frame k tells the pitch at sample 160 k. A net on a device may work on several clips at once.
        """
        ...


def create_estimator(name: EstimatorName, machine: Machine) -> PitchEstimator:
    """The estimator of that name, ready to work on that machine.

    Raises MissingWeights when its published weights are not here and whole, InvalidConfig when its package is one that
    the engine does not bring and is not installed, or the machine's device is not there.
    """
    return _FACTORIES[name](machine)


def _swift(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.swift import SwiftEstimator

    return SwiftEstimator(machine.num_threads)


def _rmvpe(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.neural.rmvpe import RmvpeEstimator

    return RmvpeEstimator.from_published(machine)


def _fcpe(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.neural.fcpe import FcpeEstimator

    return FcpeEstimator.from_published(machine)


def _crepe(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.neural.crepe import CrepeEstimator

    return CrepeEstimator.from_published("crepe", machine)


def _crepe_tiny(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.neural.crepe import CrepeEstimator

    return CrepeEstimator.from_published("crepe-tiny", machine)


def _dio(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.world import DioEstimator

    return DioEstimator()


def _harvest(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.world import HarvestEstimator

    return HarvestEstimator()


def _pm(machine: Machine) -> PitchEstimator:
    from rvc_engine.pitch.praat import PraatEstimator

    return PraatEstimator()


_FACTORIES: dict[EstimatorName, Callable[[Machine], PitchEstimator]] = {
    "swift": _swift,
    "rmvpe": _rmvpe,
    "fcpe": _fcpe,
    "crepe": _crepe,
    "crepe-tiny": _crepe_tiny,
    "dio": _dio,
    "harvest": _harvest,
    "pm": _pm,
}
