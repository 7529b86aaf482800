"""The order of optimizer entries in a `G_` file, rewritten for the program that is to continue training from it.

Optimizer entries bear numbers and no names, and each program counts its own parameters: RVC WebUI and Applio hold the
same generator in different orders, and neither looks whether an entry fits. Ours are RVC's; Applio needs its own, or it
ends at its first step with an error about shapes. Discriminators are the same in both.
"""

from pathlib import Path
from typing import Literal

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file, save_atomically
from rvc_engine.checkpoints.pairs import named_moments
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.models.identity import generator_layout, identify, mismatch, shapes_of

Program = Literal["rvc", "applio"]

APPLIO_ORDER = (
    "enc_p.",
    "dec.m_source.",
    "dec.conv_pre.",
    "dec.ups.",
    "dec.noise_convs.",
    "dec.resblocks.",
    "dec.conv_post.",
    "dec.cond.",
    "enc_q.",
    "flow.",
    "emb_g.",
)
"""Applio's order of a generator's parts; within a part both programs agree."""


def reorder_optimizer(source: Path, target: Path, program: Program) -> None:
    """Write a `G_` file with weights and optimizer entries in the order of the program that is to go on from it.

    Raises IncompatibleCheckpoint when it is no generator of a published layout with an optimizer, DiskFull.
    """
    tree = load_file(source, lazily=True)
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict):
        raise IncompatibleCheckpoint(f"{source} holds no `model` of tensors; give the G_ file of a run")
    weights = published_names(model)
    identity = identify(shapes_of(weights))
    hparams = identity.hparams() if identity else None
    if hparams is None:
        raise IncompatibleCheckpoint(f"{source} holds {identity or 'no RVC net'}; give the G_ file of a run")
    layout = generator_layout(hparams, with_posterior=True)
    if fault := mismatch(shapes_of(weights), layout):
        raise IncompatibleCheckpoint(f"{source} cannot be handed over: {fault}")
    moments = named_moments(tree.get("optimizer"), list(weights.items()))
    if moments is None:
        raise IncompatibleCheckpoint(
            f"{source} has no optimizer state that fits its weights, so there is nothing to put in order"
        )
    names = list(layout) if program == "rvc" else sorted(layout, key=_applio_part)
    state = {number: moments[name] for number, name in enumerate(names) if name in moments}
    [group, *_] = tree["optimizer"]["param_groups"]
    optimizer = {"state": state, "param_groups": [{**group, "params": list(range(len(names)))}]}
    save_atomically({**tree, "model": {name: weights[name] for name in names}, "optimizer": optimizer}, target)


def _applio_part(name: str) -> int:
    return next(number for number, part in enumerate(APPLIO_ORDER) if name.startswith(part))
