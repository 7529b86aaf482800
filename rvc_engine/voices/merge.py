"""Merging of two voices: their weights interpolated, tensor by tensor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.identity import SPEAKER_EMBEDDING, differences, generator_layout, shapes_of
from rvc_engine.voices.export import VoiceDetails, voice_tree, write_voice_tree
from rvc_engine.voices.inspect import CONTENTVEC
from rvc_engine.voices.voice import speaker_names


@dataclass(frozen=True)
class _Parent:
    path: Path
    tree: dict[str, Any]
    weights: dict[str, Tensor]
    """Tensors by their published names."""
    hparams: Hyperparameters

    @property
    def encoder(self) -> str:
        return str(self.tree.get("embedder_model") or CONTENTVEC)


@dataclass(frozen=True)
class Merged:
    """Result of a merge."""

    info: str
    """The parents and their shares, as in the voice file."""
    speakers: int
    speakers_dropped: int
    """Rows of the speaker embedding that only one parent had."""


def merge(first: Path, second: Path, ratio: float, target: Path, name: str) -> Merged:
    """Write `ratio` times the first voice plus `1 - ratio` times the second, computed in float32, stored in float16.

    Both must have the same version, rate, pitch, sizes and content encoder. Of speaker embeddings (num_speakers, C) of
    different heights the common rows are merged, as in RVC and Applio. The result is checked as strictly as an export.
    Raises InvalidConfig for a ratio outside 0 to 1, IncompatibleCheckpoint when the two cannot be merged,
    ArtifactInvalid when the voice fails its check, DiskFull.
    """
    if not 0 <= ratio <= 1:
        raise InvalidConfig(f"the ratio is {ratio}; it must be between 0 (the second voice) and 1 (the first)")
    one, other = _read(first), _read(second)
    _check_alike(one, other)
    rows = min(one.hparams.num_speakers, other.hparams.num_speakers)
    dropped = max(one.hparams.num_speakers, other.hparams.num_speakers) - rows
    weights = {}
    for key, value in one.weights.items():
        stop = rows if key == SPEAKER_EMBEDDING else len(value)
        weights[key] = ratio * value[:stop].float() + (1 - ratio) * other.weights[key][:stop].float()
    hparams = Hyperparameters.from_voice_config(one.tree["config"], one.hparams.version, one.hparams.f0, rows)
    info = f"{ratio:g} of {first.name} and {1 - ratio:g} of {second.name}"
    epoch = max(_number(parent, "epoch") for parent in (one, other))
    step = max(_number(parent, "step") for parent in (one, other))
    speakers = {number: each for number, each in _speakers(one, other).items() if number < rows}
    tree = voice_tree(weights, hparams, VoiceDetails(name, epoch, step, one.encoder, 0.0, speakers or {0: "0"}))
    write_voice_tree(target, {**tree, "info": info})
    return Merged(info, rows, dropped)


def _speakers(one: _Parent, other: _Parent) -> dict[int, str]:
    """Speaker names by id; both names, joined, where the parents differ."""
    names = speaker_names(other.tree)
    for number, name in speaker_names(one.tree).items():
        names[number] = name if names.get(number, name) == name else f"{name}+{names[number]}"
    return dict(sorted(names.items()))


def _number(parent: _Parent, key: str) -> int:
    value = parent.tree.get(key)
    return value if isinstance(value, int) else 0


def _read(path: Path) -> _Parent:
    tree = load_file(path, lazily=True)
    try:
        weights = {
            name: value for name, value in published_names(tree["weight"]).items() if not name.startswith("enc_q.")
        }
        rows = weights[SPEAKER_EMBEDDING].shape[0]
        version, f0 = tree.get("version", "v1"), bool(tree.get("f0", 1))
        hparams = Hyperparameters.from_voice_config(tree["config"], version, f0, rows)
        faults = differences(shapes_of(weights), generator_layout(hparams, with_posterior=False))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise IncompatibleCheckpoint(
            f"{path} is not a voice file ({type(error).__name__}: {error}); give two <voice>.pth as RVC, Applio or "
            "this engine exports them"
        ) from error
    if faults:
        raise IncompatibleCheckpoint(
            f"{path} differs from the published layout in {len(faults)} tensors ({faults[0]}); see `rvc-engine inspect`"
        )
    return _Parent(path, tree, weights, hparams)


def _check_alike(one: _Parent, other: _Parent) -> None:
    pairs = [
        ("version", one.hparams.version, other.hparams.version),
        ("sample rate", one.hparams.rate_name, other.hparams.rate_name),
        ("pitch", "with" if one.hparams.f0 else "without", "with" if other.hparams.f0 else "without"),
        ("content encoder", one.encoder, other.encoder),
        ("width", one.hparams.hidden_channels, other.hparams.hidden_channels),
    ]
    unlike = [f"{name} {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs]
    if unlike:
        raise IncompatibleCheckpoint(
            f"{one.path.name} and {other.path.name} are of different kinds ({'; '.join(unlike)}); only voices that "
            "agree in these can be merged"
        )
    faults = differences(shapes_of(other.weights), shapes_of(one.weights))
    if any(not fault.startswith(SPEAKER_EMBEDDING) for fault in faults):
        raise IncompatibleCheckpoint(
            f"{one.path.name} and {other.path.name} have different layouts ({faults[0]}); they cannot be merged"
        )
