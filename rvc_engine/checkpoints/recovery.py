"""Recovery checkpoints of a run: written with a manifest, verified when loaded, damaged ones skipped."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import AdamW

from rvc_engine.checkpoints.io import load_file, save_atomically
from rvc_engine.checkpoints.manifest import KEPT_CHECKPOINTS, CheckpointEntry, manifest_in, read_entries, write_entries
from rvc_engine.checkpoints.pair_files import portable_optimizer_state
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.layout import Workspace

MODEL_KEYS = frozenset({"version", "sample_rate", "f0", "width"})
"""Keys of an identity that determine the shapes of the model, so that its weights are of no use to another."""


@dataclass(frozen=True)
class OwnCheckpoint:
    """Newest recovery checkpoint of the run, for comparison with a G_/D_ pair."""

    epoch: int
    """Last completed epoch, at least 1, as in a pair."""
    written: float
    """Seconds since 1970."""


class RecoveryStore:
    """The last two recovery checkpoints of a run, and their manifest."""

    def __init__(self, workspace: Workspace, identity: dict[str, Any]) -> None:
        """`identity`: values that a checkpoint must share: kind of voice, features, base weights, seed."""
        self.folder = workspace.recovery
        self.identity = identity
        self.last_save_seconds = 0.0

    def tree(self, state: GanTrainState, progress: TrainProgress) -> dict[str, Any]:
        """Contents of a checkpoint: the models' own tensors, not copies."""
        return {
            "identity": self.identity,
            "place": asdict(progress),
            "generator": state.synthesizer.state_dict(),
            "discriminators": state.discriminators.state_dict(),
            "generator_optimizer": portable_optimizer_state(state.generator_optimizer),
            "discriminator_optimizer": portable_optimizer_state(state.discriminator_optimizer),
            # empty except in float16
            "generator_scaler": state.generator_scaler.state_dict(),
            "discriminator_scaler": state.discriminator_scaler.state_dict(),
        }

    def write(self, tree: dict[str, Any]) -> Path:
        """Write a tree, then the manifest, then delete the oldest checkpoint. Any thread may, one at a time."""
        started = time.monotonic()
        progress, entries = TrainProgress(**tree["place"]), read_entries(self.folder)
        path = self.folder / f"step_{progress.step:09d}.pt"
        digest = save_atomically(tree, path)
        entry = CheckpointEntry(path.name, progress.step, progress.epoch, path.stat().st_size, digest)
        kept = [*(old for old in entries if old.file != entry.file), entry][-KEPT_CHECKPOINTS:]
        write_entries(self.folder, kept)
        self.last_save_seconds = time.monotonic() - started
        return path

    def load(self, state: GanTrainState, warn: Callable[[str], None]) -> TrainProgress | None:
        """Restore the newest intact checkpoint; None when the run has none yet.

        A damaged checkpoint is skipped with a warning. Raises IncompatibleCheckpoint when the checkpoints are of
        another run, or all of them are damaged: a run never starts over silently.
        """
        entries = read_entries(self.folder)
        for entry in reversed(entries):
            path = self.folder / entry.file
            fault = entry.fault(self.folder)
            if fault is None:
                # On a GPU from a mapped file: a second copy of the state in its memory may be one too many.
                return self._restore(load_file(path, lazily=state.device.type != "cpu"), state)
            warn(f"the checkpoint of step {entry.step} {fault}; resuming from the one before it")
        if not entries:
            return None
        raise IncompatibleCheckpoint(
            f"all checkpoints in {self.folder} are damaged; restore a copy of that folder, or move it elsewhere to "
            "resume from the newest G_ and D_ files beside it"
        )

    def recorded_identity(self) -> dict[str, Any]:
        """Identity in the newest readable checkpoint; empty without one. Reads no tensors."""
        for entry in reversed(read_entries(self.folder)):
            with suppress(IncompatibleCheckpoint):
                return dict(load_file(self.folder / entry.file, lazily=True)["identity"])
        return {}

    def base_weights(self) -> str | None:
        """Identity of the base weights that the run began with, by its newest readable checkpoint; None without one."""
        recorded = self.recorded_identity().get("base weights")
        return None if recorded is None else str(recorded)

    def check_identity(self, recorded: dict[str, Any]) -> None:
        """Raise IncompatibleCheckpoint when a checkpoint's identity differs in a value of this run's."""
        for key, value in self.identity.items():
            if recorded.get(key) != value:
                difference = (
                    "other recordings, or other settings of pitch or content"
                    if key == "features"
                    else f"{key}={recorded.get(key)}, but this run asks for {key}={value}"
                )
                raise IncompatibleCheckpoint(
                    f"the folder {self.folder.parent} holds a run that was trained with {difference}. To train that "
                    "run for more epochs, start it again as before, with a larger number of epochs. "
                    f"{self._way_to_another(key)}. To train anew under this name, move {self.folder} and the G_ and D_ "
                    "files beside it elsewhere"
                )

    def _way_to_another(self, key: str) -> str:
        """Advice for a run whose value of this key differs from that of the run in the folder."""
        if key in MODEL_KEYS:
            return "For a voice of another kind, give it another name"
        folder = self.folder.parent
        generators = sorted(folder.glob("G_*.pth"), key=lambda path: path.stat().st_mtime)
        generator = generators[-1] if generators else folder / "G_NUMBER.pth"
        discriminators = generator.with_name("D_" + generator.name.removeprefix("G_"))
        return (
            "To go on from its voice with what is given now, give the new voice another name and start from the last "
            f"pair of this one: -pg {generator} -pd {discriminators}"
        )

    def is_newest_whole(self) -> bool:
        """Whether the run has a checkpoint and the newest one is intact."""
        entries = read_entries(self.folder)
        return bool(entries) and entries[-1].fault(self.folder) is None

    def newest(self) -> OwnCheckpoint | None:
        """Newest checkpoint, intact or not; None when the run has none."""
        entries = read_entries(self.folder)
        if not entries:
            return None
        path = self.folder / entries[-1].file
        written = (path if path.is_file() else manifest_in(self.folder)).stat().st_mtime
        return OwnCheckpoint(max(1, entries[-1].epoch - 1), written)

    def _restore(self, tree: Any, state: GanTrainState) -> TrainProgress:
        self.check_identity(tree["identity"])
        state.synthesizer.load_state_dict(tree["generator"])
        state.discriminators.load_state_dict(tree["discriminators"])
        for name in ("generator_optimizer", "discriminator_optimizer"):
            optimizer: AdamW = getattr(state, name)
            # Keep our own groups: another device uses another kernel, and the learning rate follows from the epoch.
            own = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": tree[name]["state"], "param_groups": own})
        scalers = {"generator_scaler": state.generator_scaler, "discriminator_scaler": state.discriminator_scaler}
        for name, scaler in scalers.items():
            if scaler.is_enabled() and tree.get(name):
                scaler.load_state_dict(tree[name])
        return TrainProgress(**tree["place"])


def load_trained_synthesizer(workspace: Workspace) -> tuple[dict[str, Tensor], TrainProgress]:
    """Generator weights and progress of the newest recovery checkpoint. Raises IncompatibleCheckpoint without one."""
    entries = read_entries(workspace.recovery)
    if not entries:
        raise IncompatibleCheckpoint(f"{workspace.recovery} contains no checkpoint; train the voice first")
    tree = load_file(workspace.recovery / entries[-1].file)
    return tree["generator"], TrainProgress(**tree["place"])
