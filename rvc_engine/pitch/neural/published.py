"""Loading of published weights into the estimators' models: verified, read as data, names and shapes checked."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import PitchEstimator
from rvc_engine.errors import IncompatibleCheckpoint, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pitch.names import weights_problem
from rvc_engine.weights.catalogue import Weights


def load_published(
    model: nn.Module, name: PitchEstimator, machine: Machine, tensors: Callable[[Any], Any] = lambda file: file
) -> None:
    """Load the published file of an estimator into its model, in float32.

    `tensors` selects the model's tensors, by name, from the contents of the file. Raises MissingWeights when the file
    is missing or damaged, IncompatibleCheckpoint when it does not fit the model.
    """
    weights = Weights(machine.weights_folder)
    if problem := weights_problem(name, weights):
        raise MissingWeights(problem)
    [file] = weights.files_of(name)
    path = weights.path_of(file)
    try:
        found = dict(tensors(load_file(path)))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise IncompatibleCheckpoint(f"{path} has no model of pitch={name}; get a new copy of it") from error
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ found.keys()) + [
        key for key in expected if not _fits(found.get(key), expected[key])
    ]
    if wrong:
        raise IncompatibleCheckpoint(
            f"{path} does not fit the model of pitch={name}: {len(wrong)} tensors are missing, unknown or misshapen, "
            f"first {wrong[0]}; get a new copy of it"
        )
    model.load_state_dict(found)


def _fits(found: object, expected: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == expected.shape
