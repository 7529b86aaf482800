"""Loading of voice files of RVC, Applio and this engine for conversion. Code in a file is never run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import ContentEncoder
from rvc_engine.content.names import encoder_of
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.median_pitch import stored_median_pitch

SPEAKER_NAMES = "speaker_names"
"""Key of a voice file with several speakers: {id: name}. RVC and Applio ignore it."""


@dataclass(frozen=True)
class Voice:
    """Voice ready for conversion."""

    model: Synthesizer
    """Without posterior encoder, float32, on the device."""
    encoder: ContentEncoder
    """Content encoder whose features the model was trained on; no other works."""
    embedder: str = "contentvec"
    """Encoder as named in the file, with the checksum of a local one."""
    speakers: dict[int, str] = field(default_factory=dict)
    """Names of its speakers by id; empty where the file has none."""
    median_pitch: dict[int, float] = field(default_factory=dict)
    """Median pitch of its speakers in Hz by id; empty where it is unknown."""

    @property
    def hparams(self) -> Hyperparameters:
        """Rates and sizes."""
        return self.model.hparams


def load_voice(path: Path, device: torch.device) -> Voice:
    """Load a voice file: names and shapes must fit; either spelling of weight norm and any float type are accepted.

    Raises IncompatibleCheckpoint when it is not a voice, or needs an unsupported content encoder.
    """
    return voice_of(path, load_file(path), device)


def voice_of(path: Path, tree: Any, device: torch.device) -> Voice:
    """The voice in a file's tree, as `load_voice`."""
    try:
        weights: dict[str, Tensor] = published_names(tree["weight"])
        # Early v1 files name neither version nor pitch.
        version, f0 = tree.get("version", "v1"), bool(tree.get("f0", 1))
        hparams = Hyperparameters.from_voice_config(tree["config"], version, f0, weights["emb_g.weight"].shape[0])
        embedder = tree.get("embedder_model")
        if not isinstance(embedder, str | None):
            raise TypeError(f"its embedder_model is a {type(embedder).__name__}")
        model = Synthesizer(hparams, with_posterior=False)
        model.load_state_dict({name: value.float() for name, value in weights.items() if not name.startswith("enc_q.")})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise IncompatibleCheckpoint(
            f"{path} is not a voice file of a supported kind ({type(error).__name__}: {error}); give a "
            "<voice>.pth as RVC, Applio or this engine exports it, not a G_ or D_ checkpoint"
        ) from error
    encoder = encoder_of(embedder)
    model = model.eval().requires_grad_(False).to(device)
    return Voice(model, encoder, embedder or "contentvec", speaker_names(tree), stored_median_pitch(tree))


def speaker_names(tree: dict[str, Any]) -> dict[int, str]:
    """Speaker names of a voice file by id; values of another form, from other programs, are ignored."""
    table = tree.get(SPEAKER_NAMES)
    if not isinstance(table, dict):
        return {}
    return {number: name for number, name in table.items() if isinstance(number, int) and isinstance(name, str)}


def start_notes(tree: dict[str, Any]) -> list[str]:
    """Remark on what the training of a voice began with; empty for published base weights, and for other programs'."""
    base = tree.get("base_weights")
    if not base or not isinstance(base, str):
        return []
    return [
        "it was trained from scratch, without base weights" if base == "none" else f"its training began with {base}"
    ]
