"""The published `G_<step>.pth` and `D_<step>.pth`: four keys each, optimizer state in the reference's form."""

from pathlib import Path
from typing import Any

from torch.optim import AdamW

from rvc_engine.checkpoints.io import save_together
from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress, completed_epochs

LATEST_STEP_NAME = 2333333
"""What the reference writes as the step when it keeps one pair only."""


def pair_trees(
    state: GanTrainState, progress: TrainProgress, learning_rate: float, only_latest: bool
) -> dict[str, dict[str, Any]]:
    """The contents of a pair's files as RVC and Applio resume from them, by file name, the generator's first.

    `learning_rate` is the undecayed one; the epoch stored is the last one completed. Tensors are not copied.
    """
    name = LATEST_STEP_NAME if only_latest else progress.step
    return {
        f"{letter}_{name}.pth": {
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
    """Write what `pair_trees` gave, not one file without the other; returns where they are."""
    paths = {folder / name: tree for name, tree in trees.items()}
    save_together(paths, lambda hashes: SaveRegistry(folder).claim(hashes[0]))
    return list(paths)


def _published_optimizer(optimizer: AdamW, learning_rate: float) -> dict[str, Any]:
    """The optimizer's state with what the reference's scheduler needs."""
    state = portable_optimizer_state(optimizer)
    groups = [{**group, "initial_lr": learning_rate, "fused": None, "foreach": None} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}


def portable_optimizer_state(optimizer: AdamW) -> dict[str, Any]:
    """The optimizer's state, with the learning rate as a number where the device holds it."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {"state": state["state"], "param_groups": groups}
