"""A small voice file out of what training left: a `G_` file of RVC's, Applio's or ours, or a recovery checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import ContentEncoder, SampleRate
from rvc_engine.content.names import embedder_name
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.identity import ModelIdentity, generator_layout, identify, mismatch, shapes_of
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_engine.voices.inspect import CONTENTVEC
from rvc_engine.workspace.layout import Workspace


@dataclass(frozen=True)
class Extracted:
    """What a voice was made from."""

    identity: ModelIdentity
    epoch: int
    encoder: str
    """As the voice now says it."""
    is_encoder_stated: bool
    """Whether something beside the checkpoint said so, or the caller; else it is RVC's only one."""


@dataclass(frozen=True)
class _Source:
    weights: dict[str, Tensor]
    epoch: int
    step: int


def extract(
    source: Path, target: Path, name: str, sample_rate: SampleRate | None = None, encoder: str | None = None
) -> Extracted:
    """Write the voice of a training checkpoint, checked as strictly as an export is.

    Version, rate and pitch are told from the tensors; `sample_rate` is needed where they cannot tell. `encoder` is what
    the voice is to name; None: what lies beside the file says it, or else it is ContentVec.
    Raises IncompatibleCheckpoint when the file holds no generator of a published layout, InvalidConfig for a rate that
    the tensors contradict or that is missing, ArtifactInvalid when the result is no good, DiskFull.
    """
    found = _read(source)
    shapes = shapes_of(found.weights)
    identity = identify(shapes)
    if identity is None or identity.role == "discriminators":
        what = f"these are {identity}" if identity else "these are no weights of an RVC net"
        raise IncompatibleCheckpoint(f"{source} makes no voice: {what}; give the G_ file of the run")
    hparams = _hparams(source, identity, sample_rate)
    if fault := mismatch(shapes, generator_layout(hparams, identity.has_posterior)):
        raise IncompatibleCheckpoint(f"{source} makes no voice that RVC or Applio could load: {fault}")
    stated = _embedder(encoder) if encoder else _encoder_beside(source)
    details = VoiceDetails(name, found.epoch, found.step, stated or CONTENTVEC, seconds=0.0)
    write_voice(target, found.weights, hparams, details)
    return Extracted(identity, found.epoch, stated or CONTENTVEC, stated is not None)


def _read(source: Path) -> _Source:
    tree = load_file(source, lazily=True)
    if isinstance(tree, dict) and "weight" in tree and "config" in tree:
        raise IncompatibleCheckpoint(f"{source} is a small voice already; there is nothing to extract")
    if isinstance(tree, dict) and "generator" in tree and isinstance(tree.get("place"), dict):
        progress = tree["place"]
        epoch, step = _count(progress.get("epoch")), _count(progress.get("step"))
        return _Source(_tensors(source, tree["generator"]), max(1, epoch - 1), step)
    weights = _tensors(source, tree.get("model", tree) if isinstance(tree, dict) else None)
    return _Source(weights, _count(tree.get("iteration")), _steps_done(tree.get("optimizer")))


def _tensors(source: Path, weights: Any) -> dict[str, Tensor]:
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{source} holds no `model` of tensors; give the G_ file of the run")
    return published_names(weights)


def _steps_done(optimizer: Any) -> int:
    """As Adam counted them; 0 where nothing did."""
    states = optimizer.get("state") if isinstance(optimizer, dict) else None
    entries = states.values() if isinstance(states, dict) else ()
    return max((_count(entry.get("step")) for entry in entries if isinstance(entry, dict)), default=0)


def _count(value: Any) -> int:
    """0 for what is no number: a voice says nothing wrong of itself then."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return 0


def _hparams(source: Path, identity: ModelIdentity, sample_rate: SampleRate | None) -> Hyperparameters:
    if not identity.rates:
        raise IncompatibleCheckpoint(f"{source}: these are {identity}; only the program that made them can use them")
    if sample_rate is not None and sample_rate not in identity.rates:
        raise InvalidConfig(f"--sample-rate {sample_rate} is wrong: {source} holds {identity}")
    if sample_rate is None and identity.rate is None:
        raise InvalidConfig(
            f"{source} holds {identity}, which look alike; say which with --sample-rate {' or '.join(identity.rates)}"
        )
    hparams = identity.hparams(sample_rate)
    if hparams is None:
        raise IncompatibleCheckpoint(f"{source}: nets of width {identity.width} are not known here")
    return hparams


def _embedder(encoder: str) -> str:
    """What a voice carries for an encoder of ours; another program's name stays as it is."""
    is_ours = encoder in get_args(ContentEncoder) and encoder != "local"
    return embedder_name(cast(ContentEncoder, encoder)) if is_ours else encoder


def _encoder_beside(source: Path) -> str | None:
    """The encoder that the run's folder names: ours in the content stage's marker, Applio's in `model_info.json`."""
    for folder in (source.absolute().parent, source.absolute().parent.parent):
        made_with = Workspace(folder, "any").made_with("content")
        if made_with:
            return _embedder(made_with)
        try:
            named = json.loads((folder / "model_info.json").read_text())["embedder_model"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(named, str) and named:
            return named
    return None
