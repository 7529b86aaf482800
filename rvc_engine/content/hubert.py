"""Content features by ContentVec, SPIN or any other HuBERT, from a folder in the layout of `transformers`.

Waves are not normalised: the published preprocessor has `do_normalize: false`, and RVC and Applio normalise for no
encoder, neither in training nor in conversion. v2 takes the last block's output, 768 wide; v1 the ninth's through the
file's own `final_proj`, 256 wide, as in RVC. Other HuBERTs may have no `final_proj`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from rvc_engine.checkpoints.io import load_file
from rvc_engine.config import Version
from rvc_engine.content.hubert_model import Hubert, HubertSizes, weight_shapes
from rvc_engine.content.local_folder import WEIGHTS_FILES, weights_file
from rvc_engine.content.names import embedder_name
from rvc_engine.content.windows import encode_in_windows
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig

V1_BLOCK = 9
WINDOW_FRAMES = 3000
"""60 s: more than conversion ever encodes at once, so that features are those of RVC. The cost of attention grows with
the square of it."""
OVERLAP_FRAMES = 100

_WEIGHT_NORM_NAMES = {
    # names of a weight-normed convolution in PyTorch before 2.1, and since
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
_TRAINING_ONLY = "masked_spec_embed"
"""Used only in HuBERT's own training."""
_PROJECTION, _PROJECTION_BIAS = "final_proj.weight", "final_proj.bias"
_PREFIX = "hubert."
"""Prefix of the encoder's names in the file of a model that transcribes."""
_HEAD = "lm_head."
"""Prefix of the names of that model's head, which is not part of the encoder."""


_Hidden = Callable[[Sequence[Tensor], int | None], list[Tensor]]
"""Output (frames, hidden_size) of a block, by number, or (None) of the last, for each clip (num_samples,)."""


class HubertEncoder:
    """HuBERT as a content encoder. Frame t is centred on sample 320 t + 200."""

    def __init__(
        self,
        folder: Path,
        version: Version,
        device: torch.device,
        name: str = embedder_name("contentvec"),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Load `config.json` and the weights; `name` is the value of `embedder_model` in a voice file.

        `dtype` is the format of products, for models of the published form; features are always float32.
        Raises IncompatibleCheckpoint when config and weights do not fit each other, InvalidConfig when the model has no
        features for v1.
        """
        self.name = name
        self._device = device
        described, sizes = _read_config(folder)
        weights = {name: value.to(device) for name, value in _load_weights(folder, described, sizes).items()}
        self._projection = None
        self.feature_size: int = sizes.hidden_size
        if version == "v1":
            if _PROJECTION not in weights or sizes.num_hidden_layers < V1_BLOCK:
                raise InvalidConfig(
                    f"a v1 voice needs block {V1_BLOCK} of a HuBERT and its final_proj, but the model in {folder} has "
                    f"{sizes.num_hidden_layers} blocks and {'a' if _PROJECTION in weights else 'no'} final_proj; use "
                    "version=v2"
                )
            self._projection = weights[_PROJECTION], weights[_PROJECTION_BIAS]
            self.feature_size = sizes.classifier_proj_size
        if sizes.is_published_form:
            self._hidden: _Hidden = Hubert(sizes, weights, dtype)
        else:
            self._hidden = partial(_encode_one_by_one, _transformers_model(described, weights).to(device))

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `ContentEncoder.encode`."""
        return encode_in_windows(waves_16k, self._encode_batch, self.feature_size, WINDOW_FRAMES, OVERLAP_FRAMES)

    @torch.inference_mode()
    def _encode_batch(self, waves: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        clips = [torch.from_numpy(wave).to(self._device) for wave in waves]
        hidden = self._hidden(clips, None if self._projection is None else V1_BLOCK)
        projected = hidden if self._projection is None else [F.linear(clip, *self._projection) for clip in hidden]
        return [clip.cpu().numpy() for clip in projected]


def _read_config(folder: Path) -> tuple[dict[str, Any], HubertSizes]:
    """Contents of `config.json`, and the sizes in it. Raises IncompatibleCheckpoint."""
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        return described, HubertSizes.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _not_a_hubert(path, f"{where}: {first['msg']}" if where else first["msg"]) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _not_a_hubert(path, error) from error


def _not_a_hubert(config_file: Path, why: object) -> IncompatibleCheckpoint:
    return IncompatibleCheckpoint(f"{config_file} does not describe a HuBERT: {why}")


def _load_weights(folder: Path, described: dict[str, Any], sizes: HubertSizes) -> dict[str, Tensor]:
    """Weights in a folder, float32, under the names of `transformers`, with `final_proj` if there is one. Runs no code.

    Raises IncompatibleCheckpoint unless every weight is there, has the right shape and is finite.
    """
    path = weights_file(folder)
    if path is None:
        raise IncompatibleCheckpoint(f"{folder} has no weights; it needs {' or '.join(WEIGHTS_FILES)}")
    weights = _read_weights(path)
    try:
        shapes = weight_shapes(sizes) if sizes.is_published_form else _shapes_by_transformers(described)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        raise _not_a_hubert(folder / "config.json", error) from error
    if _PROJECTION in weights or _PROJECTION_BIAS in weights:
        shapes[_PROJECTION] = (sizes.classifier_proj_size, sizes.hidden_size)
        shapes[_PROJECTION_BIAS] = (sizes.classifier_proj_size,)
    wrong = sorted(shapes.keys() ^ weights.keys())
    wrong += [name for name in shapes.keys() & weights.keys() if shapes[name] != weights[name].shape]
    wrong += [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if wrong:
        raise IncompatibleCheckpoint(
            f"{path} does not fit its config.json: {len(wrong)} weights are missing, unknown, not finite or of wrong "
            f"shape, for example {wrong[0]}"
        )
    return weights


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else load_file(path)
    except safetensors.SafetensorError as error:
        raise IncompatibleCheckpoint(f"{path} is damaged ({error}); download or copy it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise IncompatibleCheckpoint(f"{path} does not hold the weights of a model; download or copy it again")
    named = {str(name).removeprefix(_PREFIX): value.detach().float() for name, value in weights.items()}
    return {
        _WEIGHT_NORM_NAMES.get(name, name): value
        for name, value in named.items()
        if not name.startswith(_HEAD) and name != _TRAINING_ONLY
    }


def _shapes_by_transformers(described: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    weights = _meta_model(described).state_dict()
    return {name: tuple(value.shape) for name, value in weights.items() if name != _TRAINING_ONLY}


def _transformers_model(described: dict[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    model = _meta_model(described)
    own = {name: weights.get(name, torch.zeros(value.shape)) for name, value in model.state_dict().items()}
    model.load_state_dict(own, assign=True)
    return model.eval().requires_grad_(False)


def _meta_model(described: dict[str, Any]) -> nn.Module:
    """Model of `transformers`, for forms other than the published one, on the meta device."""
    from transformers import HubertConfig, HubertModel  # takes three seconds, and is rarely needed

    with torch.device("meta"):
        model: nn.Module = HubertModel(HubertConfig(**described))
    return model


def _encode_one_by_one(model: nn.Module, clips: Sequence[Tensor], num_blocks: int | None) -> list[Tensor]:
    """Output of a block as from `Hubert`, by a model of `transformers`."""
    outputs = (model(clip[None], output_hidden_states=num_blocks is not None) for clip in clips)
    hidden = (out.last_hidden_state if num_blocks is None else out.hidden_states[num_blocks] for out in outputs)
    return [clip[0] for clip in hidden]
