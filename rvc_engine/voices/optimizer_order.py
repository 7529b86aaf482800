"""Order of optimizer entries in a `G_` file, rewritten for the program that is to continue training from it.

Optimizer entries have numbers and no names, in the order of the program's parameters: RVC WebUI and Applio build the
same generator in different orders, and neither checks whether an entry fits. Our order is RVC's; with it Applio fails
at its first step with an error about shapes. Discriminators have the same order in both.
"""

from pathlib import Path
from typing import Literal

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file, save_atomically
from rvc_engine.checkpoints.pair_files import named_moments
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
"""Applio's order of a generator's parts; within a part both programs have the same."""


def reorder_optimizer(source: Path, target: Path, program: Program) -> None:
    """Write a `G_` file with weights and optimizer entries in the order of the program that will resume from it.

    Raises IncompatibleCheckpoint unless the source is a generator of a published layout with an optimizer; DiskFull.
    """
    tree = load_file(source, lazily=True)
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict):
        raise IncompatibleCheckpoint(f"{source} has no `model` with tensors; give the G_ file of a run")
    weights = published_names(model)
    identity = identify(shapes_of(weights))
    hparams = identity.hparams() if identity else None
    if hparams is None:
        raise IncompatibleCheckpoint(f"{source} contains {identity or 'no RVC model'}; give the G_ file of a run")
    layout = generator_layout(hparams, with_posterior=True)
    if fault := mismatch(shapes_of(weights), layout):
        raise IncompatibleCheckpoint(f"{source} cannot be reordered: {fault}")
    moments = named_moments(tree.get("optimizer"), list(weights.items()))
    if moments is None:
        raise IncompatibleCheckpoint(
            f"{source} has no optimizer state that fits its weights, so there is nothing to reorder"
        )
    names = list(layout) if program == "rvc" else sorted(layout, key=_applio_part)
    state = {number: moments[name] for number, name in enumerate(names) if name in moments}
    [group, *_] = tree["optimizer"]["param_groups"]
    optimizer = {"state": state, "param_groups": [{**group, "params": list(range(len(names)))}]}
    save_atomically({**tree, "model": {name: weights[name] for name in names}, "optimizer": optimizer}, target)


def _applio_part(name: str) -> int:
    return next(number for number, part in enumerate(APPLIO_ORDER) if name.startswith(part))
