"""Published weights into the estimators' nets: verified, read as data, every name and shape checked."""

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
    """Fill the net, in float32, from the published file of that estimator.

    `tensors` takes the net's tensors, by name, out of what the file holds. Raises MissingWeights when the file is not
    here and whole, IncompatibleCheckpoint when it does not fit the net.
    """
    weights = Weights(machine.weights_folder)
    if problem := weights_problem(name, weights):
        raise MissingWeights(problem)
    [file] = weights.files_of(name)
    path = weights.path_of(file)
    try:
        found = dict(tensors(load_file(path)))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise IncompatibleCheckpoint(f"{path} does not hold the net of pitch={name}; get it again") from error
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ found.keys()) + [
        key for key in expected if not _fits(found.get(key), expected[key])
    ]
    if wrong:
        raise IncompatibleCheckpoint(
            f"{path} does not fit the net of pitch={name}: {len(wrong)} tensors are missing, unknown or misshapen, "
            f"first {wrong[0]}; get it again"
        )
    model.load_state_dict(found)


def _fits(found: object, expected: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == expected.shape
