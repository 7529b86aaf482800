"""Published `G_<step>.pth` and `D_<step>.pth` files: four keys each, optimizer state in the reference's form."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import AdamW

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file, save_together
from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs
from rvc_engine.errors import IncompatibleCheckpoint

MOMENTS = ("exp_avg", "exp_avg_sq")


def pair_trees(
    state: GanTrainState, progress: TrainProgress, learning_rate: float, number: int
) -> dict[str, dict[str, Any]]:
    """Contents of a pair's files as RVC and Applio resume from them, by file name, the generator's first.

    `learning_rate` is the undecayed one; the epoch is the last completed one. Tensors are not copied. `number` is that
    in the files' names.
    """
    return {
        f"{letter}_{number}.pth": {
            "model": model.state_dict(),
            "iteration": completed_epochs(progress),
            "optimizer": _published_optimizer(optimizer, learning_rate),
            "learning_rate": learning_rate,
        }
        for letter, model, optimizer in (
            ("G", state.synthesizer, state.generator_optimizer),
            ("D", state.discriminators, state.discriminator_optimizer),
        )
    }


def write_pair(folder: Path, trees: dict[str, dict[str, Any]]) -> list[Path]:
    """Write the files of `pair_trees`, both or neither; returns their paths. Raises DiskFull."""
    paths = {folder / name: tree for name, tree in trees.items()}
    save_together(paths, lambda hashes: SaveRegistry(folder).claim(hashes[0]))
    return list(paths)


def _published_optimizer(optimizer: AdamW, learning_rate: float) -> dict[str, Any]:
    """Optimizer state with `initial_lr`, which the reference's scheduler needs."""
    state = portable_optimizer_state(optimizer)
    groups = [{**group, "initial_lr": learning_rate, "fused": None, "foreach": None} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def portable_optimizer_state(optimizer: AdamW) -> dict[str, Any]:
    """Optimizer state with the learning rate as a number; on CUDA the optimizer has it as a tensor."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


class UnusablePair(Exception):
    """A pair that cannot be resumed from; the message names the file at fault."""


@dataclass(frozen=True)
class PairFile:
    """Contents of a G_ or D_ file: published names, tensors memory-mapped."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Any]] | None
    """Adam's state by parameter name; None where the file has none that fits its weights."""
    epoch: int
    """Last completed epoch."""
    learning_rate: float | None
    """Learning rate of that epoch, decay included."""


def read_epoch(path: Path) -> int:
    """Epoch of a G_ or D_ file, read without its tensors. Raises UnusablePair."""
    return _epoch(path, _read(path))


def read_pair_file(path: Path) -> PairFile:
    """Read a G_ or D_ file, whose checksums and values must be sound. Raises UnusablePair."""
    _check_intact(path)
    tree = _read(path)
    weights = published_names(tree["model"])
    if not all(isinstance(value, Tensor) and bool(value.isfinite().all()) for value in weights.values()):
        raise UnusablePair(f"{path.name} contains NaN or infinite values")
    optimizer = tree.get("optimizer")
    moments = named_moments(optimizer, list(weights.items()))
    return PairFile(weights, moments, _epoch(path, tree), _learning_rate(optimizer))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = load_file(path, lazily=True)
    except IncompatibleCheckpoint as error:
        raise UnusablePair(f"{path.name} is damaged, or contains code, which is never run") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UnusablePair(f"{path.name} has no `model` with tensors")
    return tree


def _check_intact(path: Path) -> None:
    """Compare every checksum in the file; files of early PyTorch have none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UnusablePair(f"{path.name} is damaged ({error})") from error
    if damaged:
        raise UnusablePair(f"{path.name} is damaged: {damaged} does not match its checksum")


def _epoch(path: Path, tree: dict[str, Any]) -> int:
    epoch = tree.get("iteration", 0)
    if not isinstance(epoch, int) or epoch < 0:
        raise UnusablePair(f"{path.name} has the invalid epoch {epoch!r}")
    return epoch


def _learning_rate(optimizer: Any) -> float | None:
    try:
        rate = float(optimizer["param_groups"][0]["lr"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def named_moments(optimizer: Any, weights: list[tuple[str, Tensor]]) -> dict[str, dict[str, Any]] | None:
    """Adam's state by parameter name; None where it is missing or does not fit the weights.

    Entries are numbered in the order of the file's own weights, and Applio's order is not RVC's.
    """
    try:
        return _named_moments(optimizer, weights)
    except (KeyError, TypeError, AttributeError):  # not in PyTorch's form
        return None


def _named_moments(optimizer: Any, weights: list[tuple[str, Tensor]]) -> dict[str, dict[str, Any]] | None:
    if not isinstance(optimizer, dict) or not optimizer.get("state"):
        return None
    state = optimizer["state"]
    numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    if len(numbers) != len(weights):
        return None
    moments = {}
    for number, (name, weight) in zip(numbers, weights, strict=True):
        entry = state.get(number)
        if entry is None:  # a parameter that never had a gradient
            continue
        values = [entry.get(key) for key in MOMENTS]
        if not all(isinstance(value, Tensor) and value.shape == weight.shape for value in values):
            return None
        if not all(bool(value.isfinite().all()) for value in values):
            return None
        moments[name] = {key: entry[key] for key in (*MOMENTS, "step")}
    return moments
