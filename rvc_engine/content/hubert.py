"""ContentVec, or any net of HuBERT's form, from a folder in `transformers`' layout.

The published preprocessor asks for no normalisation (`do_normalize: false`), and RVC and Applio give the wave as it is,
in training and at conversion alike; so does this. v2 takes the last block's output, 768 wide; v1 the ninth's through
the file's own `final_proj`, 256 wide, as RVC does.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from rvc_engine.checkpoint import load_file
from rvc_engine.config import Version
from rvc_engine.content.names import embedder_name
from rvc_engine.content.windows import encode_in_windows
from rvc_engine.errors import IncompatibleCheckpoint

V1_BLOCK = 9
WINDOW_ROWS = 3000
"""60 s: more than conversion ever hands over at once, so that it computes what RVC does. Attention grows with the
square of it."""
OVERLAP_ROWS = 100

_WEIGHT_NORM_NAMES = {
    # what PyTorch called the parts of a weight-normed convolution before 2.1
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
_NOT_NEEDED = frozenset({"net.masked_spec_embed"})
"""Used in HuBERT's own training only."""


class HubertEncoder:
    """Row t is centred on sample 320 t + 200."""

    name = embedder_name("contentvec")

    def __init__(self, folder: Path, version: Version, device: torch.device) -> None:
        """Load `config.json` and `pytorch_model.bin`. Raises IncompatibleCheckpoint when they do not fit each other."""
        self._version = version
        self._device = device
        net, projection = load_hubert(folder)
        self.feature_size = projection.out_features if version == "v1" else projection.in_features
        self._net = net.eval().requires_grad_(False).to(device)
        self._projection = projection.requires_grad_(False).to(device)

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `ContentEncoder.encode`."""
        return encode_in_windows(waves_16k, self._rows, self.feature_size, WINDOW_ROWS, OVERLAP_ROWS)

    @torch.inference_mode()
    def _rows(self, waves: NDArray[np.float32]) -> NDArray[np.float32]:
        is_v1 = self._version == "v1"
        output = self._net(torch.from_numpy(waves).to(self._device), output_hidden_states=is_v1)
        hidden = self._projection(output.hidden_states[V1_BLOCK]) if is_v1 else output.last_hidden_state
        rows: NDArray[np.float32] = hidden.cpu().numpy()
        return rows


def load_hubert(folder: Path) -> tuple[nn.Module, nn.Linear]:
    """The net of a folder and its `final_proj`, float32. Every weight must be there, fit and be finite; no code is run.

    Raises IncompatibleCheckpoint.
    """
    config_file, weights_file = folder / "config.json", folder / "pytorch_model.bin"
    try:
        config = HubertConfig(**json.loads(config_file.read_text()))
        net = HubertModel(config)
        projection = nn.Linear(config.hidden_size, config.classifier_proj_size)
    except (OSError, ValueError, TypeError) as error:
        raise IncompatibleCheckpoint(f"{config_file} does not describe a HuBERT net: {error}") from error
    _load_strictly(nn.ModuleDict({"net": net, "final_proj": projection}), load_file(weights_file), weights_file)
    return net, projection


def _load_strictly(nets: nn.ModuleDict, weights: object, path: Path) -> None:
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{path} does not hold a net's weights; get it again from where it came")
    expected = nets.state_dict()
    found = {_our_name(str(name)): value.float() for name, value in weights.items()}
    for name in _NOT_NEEDED & expected.keys():
        found.setdefault(name, expected[name])
    wrong = sorted(expected.keys() ^ found.keys())
    wrong += [name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape]
    wrong += [name for name, value in found.items() if not bool(value.isfinite().all())]
    if wrong:
        raise IncompatibleCheckpoint(
            f"{path} does not fit its config.json: {len(wrong)} weights are missing, unknown, misshapen or not finite, "
            f"first {wrong[0].removeprefix('net.')}"
        )
    nets.load_state_dict(found)


def _our_name(name: str) -> str:
    name = _WEIGHT_NORM_NAMES.get(name, name)
    return name if name.startswith("final_proj.") else f"net.{name}"
