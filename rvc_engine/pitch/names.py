"""Requirements of pitch estimators, checked before one is created. No torch."""

import importlib.util

from rvc_engine.config import PitchEstimator
from rvc_engine.errors import InvalidConfig
from rvc_engine.installation import install_command
from rvc_engine.weights.catalogue import Weights

PUBLISHED_WEIGHTS: frozenset[PitchEstimator] = frozenset({"rmvpe", "fcpe", "crepe", "crepe-tiny"})
"""Estimators whose weights are downloaded or imported, under an id that is the estimator's name. The others have theirs
in their packages, or none."""


def check_installed(name: PitchEstimator) -> None:
    """Raise InvalidConfig when the estimator needs an optional package that is not installed."""
    if name == "pm" and importlib.util.find_spec("parselmouth") is None:
        raise InvalidConfig(
            f"pitch=pm needs praat-parselmouth, which is not installed: install it with `{install_command('pm')}` if "
            "its licence (GPL-3) is acceptable to you, or choose another estimator, such as pitch=swift"
        )


def weights_problem(name: PitchEstimator, weights: Weights) -> str | None:
    """Reason why the estimator's weights cannot be used, with remedies, without its full stop; None when they can."""
    if name not in PUBLISHED_WEIGHTS or not (problems := weights.problems(weights.files_of(name))):
        return None
    ways = weights.ways_to_get(name, "choose another estimator with pitch=swift, which needs no download")
    return f"the pitch estimator {name} cannot be used, {'; '.join(problems)}. {ways}"
