"""What is to be known of pitch estimators before one is made. No torch."""

import importlib.util

from rvc_engine.config import PitchEstimator
from rvc_engine.errors import InvalidConfig
from rvc_engine.installation import install_command
from rvc_engine.weights.catalogue import Weights

PUBLISHED_WEIGHTS: frozenset[PitchEstimator] = frozenset({"rmvpe", "fcpe", "crepe", "crepe-tiny"})
"""Nets whose weights are to be fetched or imported, under an id that is the estimator's name. The others bring theirs
with their packages, or have none."""


def check_installed(name: PitchEstimator) -> None:
    """Raise InvalidConfig when the estimator's package is one that the engine does not bring, and is not here."""
    if name == "pm" and importlib.util.find_spec("parselmouth") is None:
        raise InvalidConfig(
            f"pitch=pm is Praat's, and its package is not installed: install it with `{install_command('pm')}` if "
            "its licence, the GPL-3, suits you, or choose another estimator, such as pitch=swift"
        )


def weights_problem(name: PitchEstimator, weights: Weights) -> str | None:
    """What keeps the estimator's weights from being used, with the ways out: a sentence without its dot, or None."""
    if name not in PUBLISHED_WEIGHTS or not (problems := weights.problems(weights.files_of(name))):
        return None
    ways = weights.ways_to_get(name, "choose another estimator with pitch=swift, which needs no download")
    return f"the pitch estimator {name} cannot be used, {'; '.join(problems)}. {ways}"
