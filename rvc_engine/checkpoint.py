"""Files that hold nets: recovery checkpoints of a run, and G_/D_ pairs and base weights in the published form.

Every file is read with `weights_only=True`: a `.pth` from a stranger is data, never code.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rvc_engine.disk import check_room, is_disk_full
from rvc_engine.errors import DiskFull, IncompatibleCheckpoint
from rvc_engine.net_kind import Shapes, mismatch, shapes_of
from rvc_engine.recovery_manifest import (
    KEPT_CHECKPOINTS,
    CheckpointEntry,
    manifest_in,
    read_entries,
    write_entries,
)
from rvc_engine.retention import KeptSaves
from rvc_engine.step import Nets
from rvc_engine.workspace import Workspace, sync_folder

GOES_ON = "free some space and start the run again, it goes on from its last checkpoint"
LATEST_STEP_NAME = 2333333
"""What the reference writes as the step when it keeps one pair only."""


@dataclass(frozen=True)
class Place:
    """Where a run is."""

    step: int
    """Optimizer steps done."""
    epoch: int
    """1-based: the epoch that the next batch belongs to."""
    batch: int
    """Batches done of that epoch."""
    seconds: float
    """Training time so far, over all attempts."""
    batch_size: int
    """Clips a step, over all micro-batches and ranks."""
    num_clips: int
    learning_rate_scale: float = 1.0
    """Lowered each time the run had to go back after diverging."""
    num_rollbacks: int = 0
    is_full_precision: bool = False
    """Whether the run fell back to float32 after diverging in a shorter format."""

    @property
    def last_epoch(self) -> int:
        """The epoch of the last step done: what a person is told."""
        return self.epoch - 1 if self.batch == 0 and self.step else self.epoch


class _HashingFile:
    """Hashes what is written through it: a zip's writer goes back to nothing, so one pass is enough."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, hashlib.sha256()
        self.error: OSError | None = None
        """Why a write failed: PyTorch's zip writer turns it into a RuntimeError that no longer knows."""

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_atomically(tree: Any, path: Path) -> str:
    """`torch.save` to a temporary name, fsync, rename; returns the sha256. Raises DiskFull when there is no room."""
    return save_together({path: tree})[0]


def save_together(trees: dict[Path, Any], claim: Callable[[list[str]], None] = lambda _: None) -> list[str]:
    """Write files of one folder that belong together: all are whole on disk before the first gets its name.

    Returns their sha256, of which `claim` hears before the files get their names. Raises DiskFull when there is no
    room, before it writes anything if that can be told; what lay there before stays.
    """
    folder, names = next(iter(trees)).parent, " and ".join(path.name for path in trees)
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, tensor_bytes(trees), names, GOES_ON)
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in trees}
    try:
        hashes = [_write(tree, temporaries[path]) for path, tree in trees.items()]
        claim(hashes)
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"no room on the disk of {folder} for {names}; {GOES_ON}") from error
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return hashes


def _write(tree: Any, path: Path) -> str:
    """Returns the sha256. Raises OSError."""
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(tree, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise hashing.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return hashing.hash.hexdigest()


def tensor_bytes(tree: Any) -> int:
    """What the tensors in nested dicts and lists take."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(map(tensor_bytes, parts))


def load_file(path: Path, device: torch.device | str = "cpu", lazily: bool = False) -> Any:
    """A `.pth` as plain data. Raises IncompatibleCheckpoint when it is no such file or holds code.

    `lazily` leaves tensors in the file, to be read page by page where they are used; early formats cannot.
    """
    try:
        tree = torch.load(path, map_location=device, weights_only=True, mmap=lazily and zipfile.is_zipfile(path))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what an unpickler meets in a stranger's bytes fails in any way, IndexError for one
        raise IncompatibleCheckpoint(
            f"{path} is not a file of tensors and plain values ({type(error).__name__}); it is damaged, incomplete, "
            "or holds code, which is never run. Get it again from where it came"
        ) from error
    if not _holds_plain_tensors(tree):
        raise IncompatibleCheckpoint(f"{path} holds tensors without values, sparse or quantised ones; no net here does")
    return tree


def _holds_plain_tensors(tree: Any, depth: int = 6) -> bool:
    """Whether the tensors in nested dicts and lists can be computed with. A stranger's tree may hold itself."""
    if isinstance(tree, Tensor):
        return tree.layout == torch.strided and not tree.is_meta and not tree.is_quantized
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return depth == 0 or all(_holds_plain_tensors(part, depth - 1) for part in parts)


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

    def save(self, nets: Nets, place: Place) -> Path:
        """Write a checkpoint, then the manifest, then let go of the oldest."""
        return self.write(self.tree(nets, place))

    def tree(self, nets: Nets, place: Place) -> dict[str, Any]:
        """What a checkpoint holds; the nets' own tensors, not copies of them."""
        return {
            "identity": self.identity,
            "place": asdict(place),
            "generator": nets.generator.state_dict(),
            "discriminators": nets.discriminators.state_dict(),
            "generator_optimizer": _portable(nets.generator_optimizer),
            "discriminator_optimizer": _portable(nets.discriminator_optimizer),
            # Empty but in float16.
            "generator_scaler": nets.generator_scaler.state_dict(),
            "discriminator_scaler": nets.discriminator_scaler.state_dict(),
        }

    def write(self, tree: dict[str, Any]) -> Path:
        """Write what `tree` gave, then the manifest, then let go of the oldest. Any thread may, one at a time."""
        started = time.monotonic()
        place, entries = Place(**tree["place"]), self._entries()
        path = self.folder / f"step_{place.step:09d}.pt"
        digest = save_atomically(tree, path)
        entry = CheckpointEntry(path.name, place.step, place.epoch, path.stat().st_size, digest)
        kept = [*(old for old in entries if old.file != entry.file), entry][-KEPT_CHECKPOINTS:]
        write_entries(self.folder, kept)
        self.last_save_seconds = time.monotonic() - started
        return path

    def load(self, nets: Nets, warn: Callable[[str], None]) -> Place | None:
        """Bring the nets to the newest good checkpoint; None when the run has none yet.

        A damaged checkpoint is passed over for the one before, and said. Raises IncompatibleCheckpoint when the
        checkpoints are of another run, or all of them are damaged: a run never starts over silently.
        """
        entries = self._entries()
        for entry in reversed(entries):
            path = self.folder / entry.file
            fault = entry.fault(self.folder)
            if fault is None:
                return self._restore(load_file(path, nets.generator.emb_g.weight.device), nets, path)
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

    def _restore(self, tree: Any, nets: Nets, path: Path) -> Place:
        for key, value in self.identity.items():
            if tree["identity"].get(key) != value:
                raise IncompatibleCheckpoint(
                    f"the run in {path.parent.parent} was trained with {key}={tree['identity'].get(key)} and this one "
                    f"asks for {key}={value}; give the voice another name, or delete {path.parent} and the G_ and D_ "
                    "files beside it to train anew"
                )
        nets.generator.load_state_dict(tree["generator"])
        nets.discriminators.load_state_dict(tree["discriminators"])
        for name in ("generator_optimizer", "discriminator_optimizer"):
            optimizer: AdamW = getattr(nets, name)
            # The groups are our own: another device takes another kernel, and the learning rate is set by the epoch.
            own = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": tree[name]["state"], "param_groups": own})
        scalers = {"generator_scaler": nets.generator_scaler, "discriminator_scaler": nets.discriminator_scaler}
        for name, scaler in scalers.items():
            if scaler.is_enabled() and tree.get(name):
                scaler.load_state_dict(tree[name])
        return Place(**tree["place"])


def load_trained_generator(workspace: Workspace) -> tuple[dict[str, Tensor], Place]:
    """The generator's weights in the newest recovery checkpoint, and where the run was."""
    entries = RecoveryStore(workspace, {})._entries()
    if not entries:
        raise IncompatibleCheckpoint(f"{workspace.recovery} holds no checkpoint; train the voice first")
    tree = load_file(workspace.recovery / entries[-1].file)
    return tree["generator"], Place(**tree["place"])


def save_pair(workspace: Workspace, nets: Nets, place: Place, learning_rate: float, only_latest: bool) -> list[Path]:
    """`G_<step>.pth` and `D_<step>.pth` as RVC and Applio resume from; returns where they are.

    `learning_rate` is the undecayed one. The epoch stored is the last one completed.
    """
    return write_pair(workspace.root, pair_trees(nets, place, learning_rate, only_latest))


def pair_trees(nets: Nets, place: Place, learning_rate: float, only_latest: bool) -> dict[str, dict[str, Any]]:
    """What `save_pair` writes, by file name, the generator's first; the nets' own tensors, not copies of them."""
    name = LATEST_STEP_NAME if only_latest else place.step
    return {
        f"{letter}_{name}.pth": {
            "model": net.state_dict(),
            "iteration": completed_epochs(place),
            "optimizer": _published_optimizer(optimizer, learning_rate),
            "learning_rate": learning_rate,
        }
        for letter, net, optimizer in (
            ("G", nets.generator, nets.generator_optimizer),
            ("D", nets.discriminators, nets.discriminator_optimizer),
        )
    }


def write_pair(folder: Path, trees: dict[str, dict[str, Any]]) -> list[Path]:
    """Write what `pair_trees` gave, not one file without the other; returns where they are."""
    paths = {folder / name: tree for name, tree in trees.items()}
    save_together(paths, lambda hashes: KeptSaves(folder).claim(hashes[0]))
    return list(paths)


def completed_epochs(place: Place) -> int:
    """Whole epochs done; at least 1, because loaders show it."""
    return max(1, place.epoch - 1)


def _published_optimizer(optimizer: AdamW, learning_rate: float) -> dict[str, Any]:
    """The optimizer's state with what the reference's scheduler needs."""
    state = _portable(optimizer)
    groups = [{**group, "initial_lr": learning_rate, "fused": None, "foreach": None} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def _portable(optimizer: AdamW) -> dict[str, Any]:
    """The optimizer's state, with the learning rate as a number where the device holds it."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def load_base_weights(net: nn.Module, path: Path, role: str) -> None:
    """Start a net from published weights (`model` of a G_/D_ file, either spelling of weight norm).

    `role` names the option for messages. Raises IncompatibleCheckpoint with what the file is when it does not fit.
    """
    expected = net.state_dict()
    weights = read_base_weights(path, role, shapes_of(expected))
    net.load_state_dict({name: weights[name].to(expected[name].dtype) for name in expected})


def read_base_weights(path: Path, role: str, expected: Shapes) -> dict[str, Tensor]:
    """The weights of a G_/D_ file in the published spelling, left in the file until they are used.

    Raises IncompatibleCheckpoint, with what the file is, when they are not of the expected names and shapes.
    """
    tree = load_file(path, lazily=True)
    weights = tree.get("model", tree) if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{role}: {path} holds no `model` of tensors; give a G_ or D_ file")
    weights = published_names(weights)
    if fault := mismatch(shapes_of(weights), expected):
        raise IncompatibleCheckpoint(f"{role}: {path} does not fit: {fault}; check version, sample rate, f0 and width")
    return weights


def published_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Newer PyTorch's spelling of weight norm turned into the published one."""
    spelling = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}
    renamed = {}
    for key, value in weights.items():
        name = str(key)  # a stranger's file may have numbers
        for new, published in spelling.items():
            name = name.replace(new, published)
        renamed[name] = value
    return renamed
