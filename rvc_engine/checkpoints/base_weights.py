"""Base weights: G and D files that training starts from, published ones or one's own."""

import zipfile
from pathlib import Path

from torch import Tensor, nn

from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import NUM_SPEAKERS
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.models.identity import (
    ModelIdentity,
    Shapes,
    differences,
    discriminators_layout,
    generator_layout,
    identify,
    mismatch,
    shapes_of,
)
from rvc_engine.weights.own import BASE_ROLES, BaseRole, WeightsKind


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
    weights = _read(path, role)
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


def _read(path: Path, role: str) -> dict[str, Tensor]:
    tree = load_file(path, lazily=True)
    weights = tree.get("model", tree) if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{role}: {path} has no `model` with tensors; give a G_ or D_ file")
    return published_names(weights)


def examine(files: dict[BaseRole, Path]) -> dict[BaseRole, WeightsKind]:
    """The kind of each file, whose names, shapes and values are checked. No code in a file is run.

    Raises IncompatibleCheckpoint for a file that cannot be base weights, or for two of different kinds.
    """
    kinds = {role: _examine(files[role], role) for role in BASE_ROLES if role in files}
    if len({(kind.version, kind.width) for kind in kinds.values()}) > 1:
        raise IncompatibleCheckpoint(f"the files do not belong together: {' and '.join(map(str, kinds.values()))}")
    return kinds


def _examine(path: Path, role: BaseRole) -> WeightsKind:
    _check_size(path, role)
    weights = _read(path, role)
    shapes = shapes_of(weights)
    found = identify(shapes)
    if found is None:
        raise IncompatibleCheckpoint(
            f"{role}: these are not the weights of an RVC model ({len(shapes)} tensors); give a G_ or D_ file"
        )
    if not found.role.startswith(role):
        raise IncompatibleCheckpoint(f"{role}: these are {found}; give them as the other file")
    faults = _layout_faults(found, shapes)
    if faults:
        raise IncompatibleCheckpoint(
            f"{role}: these are {found} with another layout: {len(faults)} tensors differ, for example {faults[0]}"
        )
    if broken := [name for name, value in weights.items() if not _is_sound(value)]:
        raise IncompatibleCheckpoint(
            f"{role}: {len(broken)} tensors have NaN or infinite values, or no floating-point numbers, for example "
            f"{broken[0]}; get another copy, or an earlier save"
        )
    return WeightsKind(version=found.version, sample_rate=found.rate, f0=found.f0, width=found.width)


def _check_size(path: Path, role: BaseRole) -> None:
    """PyTorch compresses nothing, so a file that unpacks to more than its own size was made to fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except zipfile.BadZipFile:
        return  # in the format of early PyTorch, or no such file at all, which its reading shows
    if unpacked > path.stat().st_size:
        raise IncompatibleCheckpoint(f"{role}: the file is compressed; give it as PyTorch saved it")


def _layout_faults(found: ModelIdentity, shapes: Shapes) -> list[str]:
    if found.role == "discriminators":
        return differences(shapes, discriminators_layout(ModelIdentity(found.role, found.version, found.width)))
    if not found.has_posterior:
        return ["enc_q.pre.weight is missing: a voice for conversion cannot be trained on, so give its G_ file"]
    kind = ModelIdentity(**{**vars(found), "num_speakers": NUM_SPEAKERS})
    hparams = kind.hparams()
    if hparams is None:
        return ["the sample rate or the width is none of RVC's"]
    return differences(shapes, generator_layout(hparams, with_posterior=True))


def _is_sound(value: Tensor) -> bool:
    return value.is_floating_point() and bool(value.isfinite().all())
