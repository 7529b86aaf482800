"""Extraction of a voice from a checkpoint: a `G_` file of RVC's, Applio's or ours, or a recovery checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import ContentEncoder, SampleRate
from rvc_engine.content.names import embedder_name, encoder_of
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.identity import ModelIdentity, generator_layout, identify, mismatch, shapes_of
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_engine.voices.inspect import CONTENTVEC
from rvc_engine.voices.median_pitch import median_pitch
from rvc_engine.voices.voice import Voice, voice_of
from rvc_engine.workspace.layout import Workspace


@dataclass(frozen=True)
class Extracted:
    """Result of an extraction."""

    identity: ModelIdentity
    epoch: int
    encoder: str
    """Content encoder, as named in the voice file."""
    is_encoder_stated: bool
    """Whether the caller or a file beside the checkpoint named it; else ContentVec, RVC's only one, is assumed."""


@dataclass(frozen=True)
class _Source:
    weights: dict[str, Tensor]
    epoch: int
    step: int


def extract(
    source: Path, target: Path, name: str, sample_rate: SampleRate | None = None, encoder: str | None = None
) -> Extracted:
    """Write the voice file of a training checkpoint, checked as strictly as an export.

    Version, rate and pitch follow from the shapes of the tensors; `sample_rate` is needed where they are ambiguous.
    `encoder` is the name to write; None: the one named by the run's folder, or else ContentVec.
    Raises IncompatibleCheckpoint when the file contains no generator of a published layout, InvalidConfig when the rate
    is missing or contradicts the tensors, ArtifactInvalid when the voice fails its check, DiskFull.
    """
    found = _read(source, load_file(source, lazily=True))
    identity, hparams = _identify(source, found, sample_rate)
    stated = _embedder(encoder) if encoder else _encoder_beside(source)
    pitch = _median_pitch_beside(source)
    details = VoiceDetails(name, found.epoch, found.step, stated or CONTENTVEC, seconds=0.0, median_pitch=pitch)
    write_voice(target, found.weights, hparams, details)
    return Extracted(identity, found.epoch, stated or CONTENTVEC, stated is not None)


def load_voice_or_save(
    path: Path, device: torch.device, sample_rate: SampleRate | None = None, content: str | None = None
) -> Voice:
    """Load a voice file, or the voice of a training checkpoint as `extract` finds it; no file is written.

    `content`: the training's encoder, for a checkpoint outside its run's folder. Raises IncompatibleCheckpoint, and
    InvalidConfig as `extract`.
    """
    if not path.is_file():  # such as a save of a running job that a newer one has replaced
        raise IncompatibleCheckpoint(f"{path.name} is not there any more; choose another save")
    tree = load_file(path, lazily=True)
    if isinstance(tree, dict) and "weight" in tree:
        return voice_of(path, tree, device)
    found = _read(path, tree)
    _, hparams = _identify(path, found, sample_rate)
    embedder = _encoder_beside(path) or (_embedder(content) if content else CONTENTVEC)
    model = Synthesizer(hparams, with_posterior=False)
    model.load_state_dict({n: v.float() for n, v in found.weights.items() if not n.startswith("enc_q.")})
    model = model.eval().requires_grad_(False).to(device)
    return Voice(model, encoder_of(embedder), embedder, median_pitch=_median_pitch_beside(path))


def _identify(source: Path, found: _Source, sample_rate: SampleRate | None) -> tuple[ModelIdentity, Hyperparameters]:
    """The kind of a checkpoint's generator and its hyperparameters. Raises as `extract`."""
    shapes = shapes_of(found.weights)
    identity = identify(shapes)
    if identity is None or identity.role == "discriminators":
        what = f"it contains {identity}" if identity else "it contains no weights of an RVC model"
        raise IncompatibleCheckpoint(f"no voice can be extracted from {source}: {what}; give the G_ file of the run")
    hparams = _hparams(source, identity, sample_rate)
    if fault := mismatch(shapes, generator_layout(hparams, identity.has_posterior)):
        raise IncompatibleCheckpoint(f"{source} gives no voice that RVC or Applio can load: {fault}")
    return identity, hparams


def _read(source: Path, tree: Any) -> _Source:
    if isinstance(tree, dict) and "weight" in tree and "config" in tree:
        raise IncompatibleCheckpoint(f"{source} is already a voice file; there is nothing to extract")
    if isinstance(tree, dict) and "generator" in tree and isinstance(tree.get("place"), dict):
        progress = tree["place"]
        epoch, step = _count(progress.get("epoch")), _count(progress.get("step"))
        return _Source(_tensors(source, tree["generator"]), max(1, epoch - 1), step)
    weights = _tensors(source, tree.get("model", tree) if isinstance(tree, dict) else None)
    return _Source(weights, _count(tree.get("iteration")), _steps_done(tree.get("optimizer")))


def _tensors(source: Path, weights: Any) -> dict[str, Tensor]:
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{source} has no `model` with tensors; give the G_ file of the run")
    return published_names(weights)


def _steps_done(optimizer: Any) -> int:
    """Optimizer steps counted by Adam; 0 without its state."""
    states = optimizer.get("state") if isinstance(optimizer, dict) else None
    entries = states.values() if isinstance(states, dict) else ()
    return max((_count(entry.get("step")) for entry in entries if isinstance(entry, dict)), default=0)


def _count(value: Any) -> int:
    """Value as an integer; 0, which stands for unknown in a voice file, where it is not a number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return 0


def _hparams(source: Path, identity: ModelIdentity, sample_rate: SampleRate | None) -> Hyperparameters:
    if not identity.rates:
        raise IncompatibleCheckpoint(f"{source} contains {identity}; only the program that made them can use them")
    if sample_rate is not None and sample_rate not in identity.rates:
        raise InvalidConfig(f"--sample-rate {sample_rate} is wrong: {source} contains {identity}")
    if sample_rate is None and identity.rate is None:
        raise InvalidConfig(
            f"{source} contains {identity}, which have the same shapes; choose with "
            f"--sample-rate {' or '.join(identity.rates)}"
        )
    hparams = identity.hparams(sample_rate)
    if hparams is None:
        raise IncompatibleCheckpoint(f"{source}: models of width {identity.width} are not supported")
    return hparams


def _embedder(encoder: str) -> str:
    """Name of an encoder in a voice file; names of other programs are kept."""
    is_ours = encoder in get_args(ContentEncoder) and encoder != "local"
    return embedder_name(cast(ContentEncoder, encoder)) if is_ours else encoder


def _encoder_beside(source: Path) -> str | None:
    """Encoder named by the run's folder: ours in the content stage's marker, Applio's in `model_info.json`."""
    for folder in (source.absolute().parent, source.absolute().parent.parent):
        made_with = Workspace(folder, "any").made_with("content")
        if made_with:
            return _embedder(made_with)
        try:
            named = json.loads((folder / "model_info.json").read_text(encoding="utf-8"))["embedder_model"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(named, str) and named:
            return named
    return None


def _median_pitch_beside(source: Path) -> dict[int, float]:
    """Median pitch of the speakers by the run's folder; empty without one."""
    folder = source.absolute().parent
    return median_pitch(Workspace(folder, "any")) or median_pitch(Workspace(folder.parent, "any"))
