"""Published weights into the estimators' nets: verified, read as data, every name and shape checked."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from rvc_engine.checkpoint import load_file
from rvc_engine.config import PitchEstimator
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.machine import Machine
from rvc_engine.weights import Weights


def load_published(
    net: nn.Module, name: PitchEstimator, machine: Machine, tensors: Callable[[Any], Mapping[str, Tensor]]
) -> None:
    """Fill the net, in float32, from the published file of that estimator, and make it ready for use.

    `tensors` takes the net's tensors out of what the file holds. Raises MissingWeights when the file is not here and
    whole, IncompatibleCheckpoint when it does not fit the net.
    """
    weights = Weights(machine.weights_folder)
    [file] = weights.files_of(name)
    weights.require([file], name)
    path = weights.path_of(file)
    try:
        net.load_state_dict(dict(tensors(load_file(path))))
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise IncompatibleCheckpoint(f"{path} does not fit the net of pitch={name}: {error}") from error
    net.eval().requires_grad_(False)
