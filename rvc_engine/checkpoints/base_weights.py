"""Base weights: published G and D files that training starts from."""

from pathlib import Path

from torch import Tensor, nn

from rvc_engine.checkpoints.io import load_file
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.models.identity import Shapes, mismatch, shapes_of


def load_base_weights(model: nn.Module, path: Path, role: str) -> None:
    """Load published weights (`model` of a G_/D_ file, either spelling of weight norm) into a model.

    `role` names the option in messages. Raises IncompatibleCheckpoint, with the file's kind, when it does not fit.
    """
    expected = model.state_dict()
    weights = read_base_weights(path, role, shapes_of(expected))
    model.load_state_dict({name: weights[name].to(expected[name].dtype) for name in expected})


def read_base_weights(path: Path, role: str, expected: Shapes) -> dict[str, Tensor]:
    """Weights of a G_/D_ file under their published names, memory-mapped.

    Raises IncompatibleCheckpoint, with the file's kind, unless names and shapes are the expected ones.
    """
    tree = load_file(path, lazily=True)
    weights = tree.get("model", tree) if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{role}: {path} has no `model` with tensors; give a G_ or D_ file")
    weights = published_names(weights)
    if fault := mismatch(shapes_of(weights), expected):
        raise IncompatibleCheckpoint(f"{role}: {path} does not fit: {fault}; check version, sample rate, f0 and width")
    return weights


def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weight norm parameters from newer PyTorch's spelling (`.parametrizations`) to the published one."""
    spelling = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    renamed = {}
    for key, value in weights.items():
        name = str(key)  # keys of a foreign file may be numbers
        for new, published in spelling.items():
            name = name.replace(new, published)
        renamed[name] = value
    return renamed
