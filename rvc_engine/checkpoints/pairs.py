"""Going on from a `G_`/`D_` pair in the run's folder: RVC WebUI's, Applio's, or one of ours without its checkpoint.

The newest pair is the one of the latest epoch, then of the latest time; the number in a file's name says little, since
the reference calls the only pair it keeps 2333333. A pair that cannot be read is passed over for the one before, and
that is said. Both halves are on disk whole before anything is taken from them (no checksum comes with them, so the
zip's own are read).
"""

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.checkpoints.recovery import OwnCheckpoint
from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.models.identity import SPEAKER_EMBEDDING, mismatch, shapes_of

MOMENTS = ("exp_avg", "exp_avg_sq")
SAME_LEARNING_RATE = 0.01
"""Relative difference that is no other learning rate: the reference decays once more each time it resumes."""

Warn = Callable[[str], None]


class _Unusable(Exception):
    """A pair that is not whole; the text continues the name of its file."""


@dataclass(frozen=True)
class SavedPair:
    """A `G_` file and the `D_` file of the same name, as far as the generator's says without its tensors."""

    generator: Path
    epoch: int
    """The last one completed."""
    written: float
    """When, in seconds since 1970."""

    @property
    def discriminators(self) -> Path:
        """The other half."""
        return self.generator.with_name("D_" + self.generator.name.removeprefix("G_"))

    def age_key(self) -> tuple[int, float]:
        """Sorts older before newer."""
        return self.epoch, self.written


@dataclass(frozen=True)
class _Half:
    """What one file holds, published names, tensors still in the file."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Any]] | None
    """Adam's state by the parameter's name; None where the file has none that fits its weights."""
    epoch: int
    learning_rate: float | None
    """Of that epoch."""


def pairs_to_resume(root: Path, own: OwnCheckpoint | None, warn: Warn) -> list[SavedPair]:
    """The pairs in a run's folder to go on from, newest first; none where the run's own checkpoint is to be taken.

    That one is exact to the step, so it wins, unless another program trained on: then a whole pair that no save of
    this run left is both of a later epoch and younger. Raises IncompatibleCheckpoint when all files there are broken
    and the run has nothing else: it never starts over silently.
    """
    if own is None:
        return _find(root, warn)
    newer = (pair for pair in _list_pairs(root)[0] if pair.epoch > own.epoch and pair.written > own.written)
    saves = SaveRegistry(root)
    candidates = (pair for pair in newer if not saves.is_own(pair.generator))
    return [pair for pair in sorted(candidates, key=SavedPair.age_key, reverse=True) if _is_whole(pair, warn)]


def _find(root: Path, warn: Warn) -> list[SavedPair]:
    found, faults = _list_pairs(root)
    found.sort(key=SavedPair.age_key, reverse=True)
    for written, fault in faults:
        # An old broken file is nobody's loss once there is a newer whole one.
        if not found or written >= found[0].written:
            warn(fault)
    if faults and not found:
        raise IncompatibleCheckpoint(
            f"{root} holds G_ files, and none can be gone on from ({faults[-1][1]}); restore them, or move G_*.pth and "
            "D_*.pth out of that folder to train anew"
        )
    return found


def _list_pairs(root: Path) -> tuple[list[SavedPair], list[tuple[float, str]]]:
    """The pairs that say what they are, and of the other G_ files when they were written and what is wrong."""
    found, faults = [], []
    for path in sorted(root.glob("G_*.pth")):
        written = path.stat().st_mtime
        try:
            pair = SavedPair(path, _epoch(_read(path)), written)
            if not pair.discriminators.is_file():
                raise _Unusable(f"has no {pair.discriminators.name} beside it")
            found.append(pair)
        except _Unusable as error:
            faults.append((written, f"{path.name} {error}; it is passed over"))
    return found, faults


def _is_whole(pair: SavedPair, warn: Warn) -> bool:
    try:
        _halves(pair)
    except _Unusable as error:
        warn(f"{error}; it is passed over")
        return False
    return True


@dataclass(frozen=True)
class Resumed:
    """Where the nets were brought to."""

    pair: SavedPair
    epoch: int
    """Epochs completed."""
    learning_rate_scale: float
    """Factor on what the config's own schedule gives."""


def resume(pairs: list[SavedPair], state: GanTrainState, config: TrainingConfig, warn: Warn) -> Resumed | None:
    """Bring the nets and their optimizers to the first of these pairs that is whole; None when there are none.

    Raises IncompatibleCheckpoint when the newest whole one is of another kind than the run, or all are damaged.
    """
    for pair in pairs:
        try:
            return _load(pair, state, config, warn)
        except _Unusable as error:
            warn(f"{error}; going on from the pair before")
    if not pairs:
        return None
    folder = pairs[0].generator.parent
    raise IncompatibleCheckpoint(
        f"all G_ and D_ files in {folder} are damaged; restore a copy of them, or move them out of it to train anew"
    )


def _halves(pair: SavedPair) -> tuple[_Half, _Half]:
    generator, discriminators = _read_half(pair.generator), _read_half(pair.discriminators)
    if generator.epoch != discriminators.epoch:
        raise _Unusable(
            f"{pair.generator.name} is of epoch {generator.epoch} and {pair.discriminators.name} of epoch "
            f"{discriminators.epoch}: saving them was interrupted"
        )
    return generator, discriminators


def _load(pair: SavedPair, state: GanTrainState, config: TrainingConfig, warn: Warn) -> Resumed:
    generator, discriminators = _halves(pair)
    for path, half, model in (
        (pair.generator, generator, state.synthesizer),
        (pair.discriminators, discriminators, state.discriminators),
    ):
        _check_fits(path, half.weights, model)
    _restore(pair.generator, generator, state.synthesizer, state.generator_optimizer, warn)
    _restore(pair.discriminators, discriminators, state.discriminators, state.discriminator_optimizer, warn)
    return Resumed(pair, generator.epoch, _learning_rate_scale(generator, config, warn))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = load_file(path, lazily=True)
    except IncompatibleCheckpoint as error:
        raise _Unusable("is damaged, or holds code, which is never run") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise _Unusable("holds no `model` of tensors")
    return tree


def _epoch(tree: dict[str, Any]) -> int:
    epoch = tree.get("iteration", 0)
    if not isinstance(epoch, int) or epoch < 0:
        raise _Unusable(f"says that it is of epoch {epoch!r}")
    return epoch


def _read_half(path: Path) -> _Half:
    try:
        _check_whole(path)
        tree = _read(path)
        weights = published_names(tree["model"])
        if not all(isinstance(value, Tensor) and bool(value.isfinite().all()) for value in weights.values()):
            raise _Unusable("holds values that are no numbers")
        optimizer = tree.get("optimizer")
        return _Half(
            weights, named_moments(optimizer, list(weights.items())), _epoch(tree), _learning_rate(tree, optimizer)
        )
    except _Unusable as error:
        raise _Unusable(f"{path.name} {error}") from error


def _check_whole(path: Path) -> None:
    """Compare every checksum that the file carries; early formats carry none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise _Unusable(f"is damaged ({error})") from error
    if damaged:
        raise _Unusable(f"is damaged: {damaged} does not match its checksum")


def named_moments(optimizer: Any, weights: list[tuple[str, Tensor]]) -> dict[str, dict[str, Any]] | None:
    """Adam's state by name; None where it is missing or does not fit.

    A file numbers its entries in the order of its own weights: Applio's is not RVC's.
    """
    try:
        return _named_moments(optimizer, weights)
    except (KeyError, TypeError, AttributeError):  # of another form than PyTorch gives it
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
        if entry is None:  # a parameter that no gradient ever reached
            continue
        values = [entry.get(key) for key in MOMENTS]
        if not all(isinstance(value, Tensor) and value.shape == weight.shape for value in values):
            return None
        if not all(bool(value.isfinite().all()) for value in values):
            return None
        moments[name] = {key: entry[key] for key in (*MOMENTS, "step")}
    return moments


def _learning_rate(tree: dict[str, Any], optimizer: Any) -> float | None:
    """The one that the file's last epoch was trained with, decay included; else the undecayed one."""
    try:
        rate = float(optimizer["param_groups"][0]["lr"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError):
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def _check_fits(path: Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    found, expected = shapes_of(weights), shapes_of(model.state_dict())
    if SPEAKER_EMBEDDING in expected and found.get(SPEAKER_EMBEDDING, (0,))[0] < expected[SPEAKER_EMBEDDING][0]:
        # Applio's embedding has a row for each speaker of the dataset, and the published one 109.
        found[SPEAKER_EMBEDDING] = (expected[SPEAKER_EMBEDDING][0], *found.get(SPEAKER_EMBEDDING, (0, 0))[1:])
    if fault := mismatch(found, expected):
        raise IncompatibleCheckpoint(
            f"{path} cannot be gone on from: {fault}. Give the voice another name, or move the G_ and D_ files out of "
            "that folder to train anew"
        )


def _restore(path: Path, half: _Half, model: nn.Module, optimizer: AdamW, warn: Warn) -> None:
    own = model.state_dict()
    model.load_state_dict({name: _padded(half.weights[name], value, fill=value) for name, value in own.items()})
    if half.moments is None:
        warn(f"{path.name} has no optimizer state that fits; its weights are gone on from with a fresh optimizer")
        return
    state = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name in half.moments:
            entry = half.moments[name]
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            state[number] = {
                "step": torch.tensor(float(entry["step"])),
                **{key: _padded(entry[key], zeros, fill=zeros) for key in MOMENTS},
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _padded(value: Tensor, like: Tensor, fill: Tensor) -> Tensor:
    """A copy in memory of `like`'s type and place; rows that the file lacks are those of `fill`."""
    copy = fill.detach().clone()
    copy[: len(value)] = value.to(device=like.device, dtype=like.dtype)
    return copy


def _learning_rate_scale(half: _Half, config: TrainingConfig, warn: Warn) -> float:
    """What brings our schedule to the file's learning rate, unless the config asks for one of its own."""
    usual = TrainingConfig.model_fields["learning_rate"].default
    if half.learning_rate is None or half.epoch == 0 or config.learning_rate != usual:
        return 1.0
    scale = half.learning_rate / (config.learning_rate * config.lr_decay ** (half.epoch - 1))
    if abs(scale - 1) < SAME_LEARNING_RATE:
        return 1.0
    warn(
        f"going on with the pair's learning rate, {half.learning_rate:.3g} in its epoch {half.epoch}, which is "
        f"{scale:.3g} times the usual; give another learning_rate to choose it yourself"
    )
    return scale
