"""Pitch estimators by name. Speed and agreement of each: docs/decisions/0001-pitch-estimators.md."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.machine import Machine


class PitchEstimator(Protocol):
    """Estimator of the F0 curves of clips."""

    name: str
    batch_size: int
    """Best number of clips of a few seconds per call on the device. A run can be stopped between two calls."""
    threads_per_call: int | None
    """Least number of CPU threads per call, where calls may run in parallel; None: one call at a time."""

    def estimate(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """Pitch of each clip in Hz, 0 where unvoiced: (num_samples,) at 16 kHz to (num_samples // 160,), any lengths.

        Frame k is the pitch at sample 160 k. A model on a GPU may process several clips in a batch.
        """
        ...


def create_estimator(name: EstimatorName, machine: Machine) -> PitchEstimator:  # noqa: PLR0911 (one per estimator)
    """Create the estimator of a name on a machine.

    Raises MissingWeights when its published weights are missing or damaged, IncompatibleCheckpoint when they do not fit
    the model, InvalidConfig when its optional package is not installed or the machine lacks the device.
    """
    match name:  # each imports only the packages of its own estimator
        case "swift":
            from rvc_engine.pitch.swift import SwiftEstimator

            return SwiftEstimator(machine.num_threads)
        case "rmvpe":
            from rvc_engine.pitch.neural.rmvpe import RmvpeEstimator

            return RmvpeEstimator.from_published(machine)
        case "fcpe":
            from rvc_engine.pitch.neural.fcpe import FcpeEstimator

            return FcpeEstimator.from_published(machine)
        case "crepe" | "crepe-tiny":
            from rvc_engine.pitch.neural.crepe import CrepeEstimator

            return CrepeEstimator.from_published(name, machine)
        case "dio":
            from rvc_engine.pitch.world import DioEstimator

            return DioEstimator()
        case "harvest":
            from rvc_engine.pitch.world import HarvestEstimator

            return HarvestEstimator()
        case "pm":
            from rvc_engine.pitch.praat import PraatEstimator

            return PraatEstimator()
