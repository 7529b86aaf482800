"""Reading a voice file for use, whoever made it: RVC, Applio or this engine. No code in it is run."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rvc_engine.checkpoint import load_file, published_names
from rvc_engine.config import ContentEncoder
from rvc_engine.content.names import encoder_of
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.nets.synthesizer import Synthesizer


@dataclass(frozen=True)
class Voice:
    """A voice ready to speak."""

    net: Synthesizer
    """Without the posterior encoder, float32, on the device."""
    encoder: ContentEncoder
    """The only encoder whose features it understands."""

    @property
    def sizes(self) -> Hyperparameters:
        """Rates and sizes."""
        return self.net.sizes


def load_voice(path: Path, device: torch.device) -> Voice:
    """Read a voice file: every name and shape must fit, either spelling of weight norm and any float type will do.

    Raises IncompatibleCheckpoint when it is no voice, or needs a content encoder that is not known here.
    """
    tree = load_file(path)
    try:
        weights: dict[str, Tensor] = published_names(tree["weight"])
        # Early v1 files name neither version nor pitch.
        version, f0 = tree.get("version", "v1"), bool(tree.get("f0", 1))
        sizes = Hyperparameters.of_voice(tree["config"], version, f0, weights["emb_g.weight"].shape[0])
        embedder = tree.get("embedder_model")
        net = Synthesizer(sizes, with_posterior=False)
        net.load_state_dict({name: value.float() for name, value in weights.items() if not name.startswith("enc_q.")})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise IncompatibleCheckpoint(
            f"{path} is not a voice file of a kind that is known here ({type(error).__name__}: {error}); give a "
            "<voice>.pth as RVC, Applio or this engine exports it, not a G_ or D_ checkpoint"
        ) from error
    return Voice(net.eval().requires_grad_(False).to(device), encoder_of(embedder))
