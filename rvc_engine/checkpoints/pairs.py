"""Resuming from a `G_`/`D_` pair in the run's folder: RVC WebUI's, Applio's, or one of ours without its checkpoint.

The newest pair is the one of the latest epoch, then of the latest time; the number in a file's name means little, since
the reference names the only pair it keeps 2333333. A pair that cannot be read is skipped with a warning. Both files are
verified before anything is loaded from either (they come without checksums of ours, so the zip's own are compared).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rvc_engine.checkpoints.manifest import manifest_in
from rvc_engine.checkpoints.pair_files import MOMENTS, PairFile, UnusablePair, read_epoch, read_pair_file
from rvc_engine.checkpoints.recovery import OwnCheckpoint
from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.step_numbers import step_in_name
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.models.identity import SPEAKER_EMBEDDING, mismatch, shapes_of
from rvc_engine.workspace.layout import Workspace

SAME_LEARNING_RATE = 0.01
"""Relative difference of equal learning rates: the reference decays once more each time it resumes."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class SavedPair:
    """A `G_` file and the `D_` file of the same name."""

    generator: Path
    epoch: int
    """Last completed epoch, according to the generator's file."""
    written: float
    """Modification time of the generator's file, seconds since 1970."""

    @property
    def discriminators(self) -> Path:
        """Path of the `D_` file."""
        return self.generator.with_name("D_" + self.generator.name.removeprefix("G_"))

    @property
    def number(self) -> int | None:
        """Step in the files' name; None for the name of the only pair kept, and for names without a number."""
        return step_in_name(self.generator)

    def age_key(self) -> tuple[int, float]:
        """Sort key, older pairs first."""
        return self.epoch, self.written


def is_begun(workspace: Workspace) -> bool:
    """Whether the folder holds a recovery checkpoint or a pair, so that training does not read base weights."""
    return manifest_in(workspace.recovery).exists() or bool(_list_pairs(workspace.root)[0])


def pairs_to_resume(root: Path, own: OwnCheckpoint | None, warn: Warn) -> list[SavedPair]:
    """Pairs in a run's folder to resume from, newest first; none where the run's own checkpoint is to be used.

    The own checkpoint is exact to the step, so it is preferred unless another program trained on: then an intact pair
    that this run did not save has a later time and no earlier epoch (the reference trains the last epoch again).
    Raises IncompatibleCheckpoint when all files there are broken and the run has no checkpoint: it never starts over
    silently.
    """
    if own is None:
        return _readable_pairs(root, warn)
    newer = (pair for pair in _list_pairs(root)[0] if pair.epoch >= own.epoch and pair.written > own.written)
    saves = SaveRegistry(root)
    candidates = (pair for pair in newer if not saves.is_own(pair.generator))
    return [pair for pair in sorted(candidates, key=SavedPair.age_key, reverse=True) if _is_intact(pair, warn)]


def _readable_pairs(root: Path, warn: Warn) -> list[SavedPair]:
    found, faults = _list_pairs(root)
    found.sort(key=SavedPair.age_key, reverse=True)
    for written, fault in faults:
        # An old broken file does not matter once there is a newer pair.
        if not found or written >= found[0].written:
            warn(fault)
    if faults and not found:
        raise IncompatibleCheckpoint(
            f"{root} contains G_ files, but none that training can resume from ({faults[-1][1]}); restore them, or "
            "give the voice another name. To start from scratch under this name, move G_*.pth and D_*.pth elsewhere"
        )
    return found


def _list_pairs(root: Path) -> tuple[list[SavedPair], list[tuple[float, str]]]:
    """Pairs with a readable generator, and the modification time and the fault of every other G_ file."""
    found, faults = [], []
    for path in sorted(root.glob("G_*.pth")):
        written = path.stat().st_mtime
        try:
            pair = SavedPair(path, read_epoch(path), written)
            if not pair.discriminators.is_file():
                raise UnusablePair(f"{path.name} has no {pair.discriminators.name} beside it")
            found.append(pair)
        except UnusablePair as error:
            faults.append((written, f"{error}; it is skipped"))
    return found, faults


def _is_intact(pair: SavedPair, warn: Warn) -> bool:
    try:
        _read_both(pair)
    except UnusablePair as error:
        warn(f"{error}; it is skipped")
        return False
    return True


@dataclass(frozen=True)
class Resumed:
    """State that the models were restored to."""

    pair: SavedPair
    epoch: int
    """Completed epochs."""
    learning_rate_scale: float
    """Factor on the learning rate of the config's own schedule."""


def resume(pairs: list[SavedPair], state: GanTrainState, config: TrainingConfig, warn: Warn) -> Resumed | None:
    """Restore the models and their optimizers from the first intact pair; None when there are no pairs.

    Raises IncompatibleCheckpoint when the newest intact one is of another kind than the run, or all are damaged.
    """
    for pair in pairs:
        try:
            return _load(pair, state, config, warn)
        except UnusablePair as error:
            warn(f"{error}; resuming from the pair before it")
    if not pairs:
        return None
    folder = pairs[0].generator.parent
    raise IncompatibleCheckpoint(
        f"all G_ and D_ files in {folder} are damaged; restore a copy of them, or give the voice another name. To "
        "start from scratch under this name, move them elsewhere"
    )


def _read_both(pair: SavedPair) -> tuple[PairFile, PairFile]:
    generator, discriminators = read_pair_file(pair.generator), read_pair_file(pair.discriminators)
    if generator.epoch != discriminators.epoch:
        raise UnusablePair(
            f"{pair.generator.name} is of epoch {generator.epoch} and {pair.discriminators.name} of epoch "
            f"{discriminators.epoch}: saving them was interrupted"
        )
    return generator, discriminators


def _load(pair: SavedPair, state: GanTrainState, config: TrainingConfig, warn: Warn) -> Resumed:
    generator, discriminators = _read_both(pair)
    _check_fits(pair.generator, generator.weights, state.synthesizer)
    _check_fits(pair.discriminators, discriminators.weights, state.discriminators)
    _restore(pair.generator, generator, state.synthesizer, state.generator_optimizer, warn)
    _restore(pair.discriminators, discriminators, state.discriminators, state.discriminator_optimizer, warn)
    return Resumed(pair, generator.epoch, _learning_rate_scale(generator, config, warn))


def _check_fits(path: Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    found, expected = shapes_of(weights), shapes_of(model.state_dict())
    if SPEAKER_EMBEDDING in expected and found.get(SPEAKER_EMBEDDING, (0,))[0] < expected[SPEAKER_EMBEDDING][0]:
        # Applio's embedding has a row for each speaker of the dataset, the published one 109.
        found[SPEAKER_EMBEDDING] = (expected[SPEAKER_EMBEDDING][0], *found.get(SPEAKER_EMBEDDING, (0, 0))[1:])
    if fault := mismatch(found, expected):
        raise IncompatibleCheckpoint(
            f"training cannot resume from {path}: {fault}. Give the voice another name, or move the G_ and D_ files "
            "elsewhere to start from scratch"
        )


def _restore(path: Path, file: PairFile, model: nn.Module, optimizer: AdamW, warn: Warn) -> None:
    own = model.state_dict()
    model.load_state_dict({name: _padded(file.weights[name], value) for name, value in own.items()})
    if file.moments is None:
        warn(f"{path.name} has no optimizer state that fits; its weights are used with a fresh optimizer")
        return
    state = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name in file.moments:
            entry = file.moments[name]
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            state[number] = {
                "step": torch.tensor(float(entry["step"])),
                **{key: _padded(entry[key], zeros) for key in MOMENTS},
            }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _padded(value: Tensor, fill: Tensor) -> Tensor:
    """Copy of `value` with shape, type and device of `fill`, which gives the rows that `value` lacks."""
    copy = fill.detach().clone()
    copy[: len(value)] = value.to(device=fill.device, dtype=fill.dtype)
    return copy


def _learning_rate_scale(file: PairFile, config: TrainingConfig, warn: Warn) -> float:
    """Factor from our schedule to the file's learning rate; 1 where the config sets its own."""
    usual = TrainingConfig.model_fields["learning_rate"].default
    if file.learning_rate is None or file.epoch == 0 or config.learning_rate != usual:
        return 1.0
    scale = file.learning_rate / (config.learning_rate * config.lr_decay ** (file.epoch - 1))
    if abs(scale - 1) < SAME_LEARNING_RATE:
        return 1.0
    warn(
        f"continuing with the pair's learning rate, {file.learning_rate:.3g} in its epoch {file.epoch}, which is "
        f"{scale:.3g} times the usual; set learning_rate to choose another"
    )
    return scale
