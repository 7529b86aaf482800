"""ContentVec, SPIN, or any net of HuBERT's form, from a folder in `transformers`' layout.

The published preprocessor asks for no normalisation (`do_normalize: false`), and RVC and Applio give the wave as it is,
in training and at conversion alike, whichever encoder it is; so does this. v2 takes the last block's output, 768 wide;
v1 the ninth's through the file's own `final_proj`, 256 wide, as RVC does. Other HuBERTs may have no `final_proj`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from rvc_engine.checkpoint import load_file
from rvc_engine.config import Version
from rvc_engine.content.local_folder import WEIGHTS_FILES, weights_file
from rvc_engine.content.names import embedder_name
from rvc_engine.content.packed_hubert import PackedHubert, is_packable
from rvc_engine.content.windows import encode_in_windows
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig

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
_PREFIX = "hubert."
"""Stands before the names in the file of a net with a head for transcribing,"""
_HEAD = "lm_head."
"""which is no part of the encoder."""


class HubertEncoder:
    """Row t is centred on sample 320 t + 200."""

    def __init__(
        self,
        folder: Path,
        version: Version,
        device: torch.device,
        name: str = embedder_name("contentvec"),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load `config.json` and the weights; `name` is what a voice carries.

        `dtype` is that of the products, where the net is of the published form; features are float32 always.

        Raises IncompatibleCheckpoint when they do not fit each other, InvalidConfig when the net has no rows for v1.
        """
        self.name = name
        self._device = device
        config, net, projection = load_hubert(folder)
        self._projection = None
        self.feature_size: int = config.hidden_size
        if version == "v1":
            if projection is None or config.num_hidden_layers < V1_BLOCK:
                raise InvalidConfig(
                    f"a v1 voice takes the block {V1_BLOCK} of HuBERT through its final_proj, and the net in {folder} "
                    f"has {config.num_hidden_layers} blocks and {'no' if projection is None else 'a'} final_proj; "
                    "use version=v2"
                )
            self.feature_size = projection.out_features
            self._projection = projection.requires_grad_(False).to(device)
        self._net = net.eval().requires_grad_(False).to(device)
        self._packed = PackedHubert(self._net, dtype) if is_packable(config) else None

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `ContentEncoder.encode`."""
        return encode_in_windows(waves_16k, self._rows, self.feature_size, WINDOW_ROWS, OVERLAP_ROWS)

    @torch.inference_mode()
    def _rows(self, waves: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        clips = [torch.from_numpy(wave).to(self._device) for wave in waves]
        block = None if self._projection is None else V1_BLOCK
        hidden = [self._alone(clip, block) for clip in clips] if self._packed is None else self._packed(clips, block)
        return [(rows if self._projection is None else self._projection(rows)).cpu().numpy() for rows in hidden]

    def _alone(self, clip: Tensor, block: int | None) -> Tensor:
        """The rows of one clip (num_samples,), by `transformers`: for nets of other forms than the published one."""
        output = self._net(clip[None], output_hidden_states=block is not None)
        rows: Tensor = output.last_hidden_state if block is None else output.hidden_states[block]
        return rows[0]


def load_hubert(folder: Path) -> tuple[HubertConfig, nn.Module, nn.Linear | None]:
    """The sizes, the net and the `final_proj`, where there is one, of a folder; float32.

    Every weight must be there, fit and be finite; no code is run. Raises IncompatibleCheckpoint.
    """
    config_file, path = folder / "config.json", weights_file(folder)
    if path is None:
        raise IncompatibleCheckpoint(f"{folder} holds no weights: {' or '.join(WEIGHTS_FILES)} should be there")
    weights = _read_weights(path)
    try:
        config = HubertConfig(**json.loads(config_file.read_text()))
        net: nn.Module = HubertModel(config)
        has_projection = any(name.startswith("final_proj.") for name in weights)
        projection = nn.Linear(config.hidden_size, config.classifier_proj_size) if has_projection else None
    except (OSError, ValueError, TypeError) as error:
        raise IncompatibleCheckpoint(f"{config_file} does not describe a HuBERT net: {error}") from error
    parts = {"net": net, "final_proj": projection}
    _load_strictly(nn.ModuleDict({name: part for name, part in parts.items() if part is not None}), weights, path)
    return config, net, projection


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else load_file(path)
    except safetensors.SafetensorError as error:
        raise IncompatibleCheckpoint(f"{path} is damaged ({error}); get it again from where it came") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{path} does not hold a net's weights; get it again from where it came")
    names = {str(name).removeprefix(_PREFIX): value for name, value in weights.items()}
    return {name: value for name, value in names.items() if not name.startswith(_HEAD)}


def _load_strictly(nets: nn.ModuleDict, weights: dict[str, Tensor], path: Path) -> None:
    expected = nets.state_dict()
    found = {_our_name(name): value.float() for name, value in weights.items()}
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
