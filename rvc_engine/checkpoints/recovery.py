"""Recovery checkpoints of a run: written with a manifest, verified when loaded, damaged ones passed over."""

import time
from collections.abc import Callable
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


@dataclass(frozen=True)
class OwnCheckpoint:
    """The run's newest recovery checkpoint, to compare a G_/D_ pair with."""

    epoch: int
    """The last one completed, at least 1, as a pair says it."""
    written: float
    """When, in seconds since 1970."""


class RecoveryStore:
    """The last two recovery checkpoints of a run and the manifest that tells which is newest and whole."""

    def __init__(self, workspace: Workspace, identity: dict[str, Any]) -> None:
        """`identity` is what a checkpoint must agree with: kind of voice, features, base weights, seed."""
        self.folder = workspace.recovery
        self.identity = identity
        self.last_save_seconds = 0.0

    def _entries(self) -> list[CheckpointEntry]:
        return read_entries(self.folder)

    def tree(self, state: GanTrainState, progress: TrainProgress) -> dict[str, Any]:
        """What a checkpoint holds; the nets' own tensors, not copies of them."""
        return {
            "identity": self.identity,
            "place": asdict(progress),
            "generator": state.synthesizer.state_dict(),
            "discriminators": state.discriminators.state_dict(),
            "generator_optimizer": portable_optimizer_state(state.generator_optimizer),
            "discriminator_optimizer": portable_optimizer_state(state.discriminator_optimizer),
            # Empty but in float16.
            "generator_scaler": state.generator_scaler.state_dict(),
            "discriminator_scaler": state.discriminator_scaler.state_dict(),
        }

    def write(self, tree: dict[str, Any]) -> Path:
        """Write what `tree` gave, then the manifest, then let go of the oldest. Any thread may, one at a time."""
        started = time.monotonic()
        progress, entries = TrainProgress(**tree["place"]), self._entries()
        path = self.folder / f"step_{progress.step:09d}.pt"
        digest = save_atomically(tree, path)
        entry = CheckpointEntry(path.name, progress.step, progress.epoch, path.stat().st_size, digest)
        kept = [*(old for old in entries if old.file != entry.file), entry][-KEPT_CHECKPOINTS:]
        write_entries(self.folder, kept)
        self.last_save_seconds = time.monotonic() - started
        return path

    def load(self, state: GanTrainState, warn: Callable[[str], None]) -> TrainProgress | None:
        """Bring the nets to the newest good checkpoint; None when the run has none yet.

        A damaged checkpoint is passed over for the one before, and said. Raises IncompatibleCheckpoint when the
        checkpoints are of another run, or all of them are damaged: a run never starts over silently.
        """
        entries = self._entries()
        for entry in reversed(entries):
            path = self.folder / entry.file
            fault = entry.fault(self.folder)
            if fault is None:
                return self._restore(load_file(path, state.synthesizer.emb_g.weight.device), state, path)
            warn(f"the checkpoint of step {entry.step} {fault}; going on from the one before")
        if not entries:
            return None
        raise IncompatibleCheckpoint(
            f"all checkpoints in {self.folder} are damaged; restore a copy of that folder, or delete it to go on from "
            "the newest G_ and D_ files, if there are any"
        )

    def is_newest_whole(self) -> bool:
        """Whether the run has a checkpoint and its newest is as it was written."""
        entries = self._entries()
        return bool(entries) and entries[-1].fault(self.folder) is None

    def newest(self) -> OwnCheckpoint | None:
        """The newest checkpoint, whole or not; None when the run has none."""
        entries = self._entries()
        if not entries:
            return None
        path = self.folder / entries[-1].file
        written = (path if path.is_file() else manifest_in(self.folder)).stat().st_mtime
        return OwnCheckpoint(max(1, entries[-1].epoch - 1), written)

    def _restore(self, tree: Any, state: GanTrainState, path: Path) -> TrainProgress:
        for key, value in self.identity.items():
            if tree["identity"].get(key) != value:
                raise IncompatibleCheckpoint(
                    f"the run in {path.parent.parent} was trained with {key}={tree['identity'].get(key)} and this one "
                    f"asks for {key}={value}; give the voice another name, or delete {path.parent} and the G_ and D_ "
                    "files beside it to train anew"
                )
        state.synthesizer.load_state_dict(tree["generator"])
        state.discriminators.load_state_dict(tree["discriminators"])
        for name in ("generator_optimizer", "discriminator_optimizer"):
            optimizer: AdamW = getattr(state, name)
            # The groups are our own: another device takes another kernel, and the learning rate is set by the epoch.
            own = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": tree[name]["state"], "param_groups": own})
        scalers = {"generator_scaler": state.generator_scaler, "discriminator_scaler": state.discriminator_scaler}
        for name, scaler in scalers.items():
            if scaler.is_enabled() and tree.get(name):
                scaler.load_state_dict(tree[name])
        return TrainProgress(**tree["place"])


def load_trained_synthesizer(workspace: Workspace) -> tuple[dict[str, Tensor], TrainProgress]:
    """The generator's weights in the newest recovery checkpoint, and where the run was."""
    entries = RecoveryStore(workspace, {})._entries()
    if not entries:
        raise IncompatibleCheckpoint(f"{workspace.recovery} holds no checkpoint; train the voice first")
    tree = load_file(workspace.recovery / entries[-1].file)
    return tree["generator"], TrainProgress(**tree["place"])
