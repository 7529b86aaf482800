"""Whisper's text decoder (Radford et al., 2022), and the reading of its weights from a file of CTranslate2.

The file is a list of named tensors, in little-endian order: the format's version, the name and revision of the kind of
model, then for each tensor its name, shape, number format and bytes. Nothing in it is code.
"""

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rvc_engine.content.whisper_model import HEAD_SIZE
from rvc_engine.errors import IncompatibleCheckpoint

_FLOAT16 = 4
"""Id of the number format in the file."""
_KIND = "WhisperSpec"
_ATTENTIONS = {"self_attention": ("linear_0", "linear_1"), "attention": ("linear_0", "linear_1", "linear_2")}


class WhisperDecoder:
    """Decoder of tokens from the encoder's output, in float32 on the CPU."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """`weights`: the tensors of the file. Raises IncompatibleCheckpoint where one is missing."""
        self._weights = {name.removeprefix("decoder/"): each for name, each in weights.items() if "decoder/" in name}
        num_layers = 0
        while f"layer_{num_layers}/ffn/linear_0/weight" in self._weights:
            num_layers += 1
        self._layers = [f"layer_{number}" for number in range(num_layers)]
        needed = ["embeddings/weight", "position_encodings/encodings", "layer_norm/gamma", "layer_norm/beta"]
        for layer in self._layers:
            parts = [f"{part}/{linear}/weight" for part, linears in _ATTENTIONS.items() for linear in linears]
            needed += [f"{layer}/{name}" for name in (*parts, "ffn/linear_1/weight")]
        if not self._layers or any(name not in self._weights for name in needed):
            raise IncompatibleCheckpoint("the file of Whisper lacks tensors of its decoder; fetch it again")

    @property
    def max_tokens(self) -> int:
        """Longest sequence of tokens."""
        return self._weights["position_encodings/encodings"].shape[0]

    def memory(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer over the encoder's output (B, S, width)."""
        pairs = []
        for layer in self._layers:
            keys, values = self._linear(encoded, f"{layer}/attention/linear_1").chunk(2, dim=-1)
            pairs.append((_heads(keys), _heads(values)))
        return pairs

    @torch.inference_mode()
    def next_logits(self, tokens: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits (B, vocabulary) of the token after `tokens` (B, T). Without a cache: texts are a sentence long."""
        embeddings = self._weights["embeddings/weight"]
        x = embeddings[tokens] + self._weights["position_encodings/encodings"][: tokens.shape[1]]
        for layer, (keys, values) in zip(self._layers, memory, strict=True):
            own = self._linear(self._norm(x, f"{layer}/self_attention/layer_norm"), f"{layer}/self_attention/linear_0")
            q, k, v = (_heads(part) for part in own.chunk(3, dim=-1))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{layer}/self_attention/linear_1")
            q = _heads(self._linear(self._norm(x, f"{layer}/attention/layer_norm"), f"{layer}/attention/linear_0"))
            mixed = F.scaled_dot_product_attention(q, keys, values)
            x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{layer}/attention/linear_2")
            hidden = F.gelu(self._linear(self._norm(x, f"{layer}/ffn/layer_norm"), f"{layer}/ffn/linear_0"))
            x = x + self._linear(hidden, f"{layer}/ffn/linear_1")
        return self._norm(x[:, -1], "layer_norm") @ embeddings.T

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}/weight"], self._weights.get(f"{name}/bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weights[f"{name}/gamma"], self._weights[f"{name}/beta"])


def _heads(x: Tensor) -> Tensor:
    """(B, T, width) -> (B, heads, T, HEAD_SIZE)."""
    return x.reshape(*x.shape[:-1], -1, HEAD_SIZE).transpose(1, 2)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in float16 of a file of CTranslate2, as float32. Raises IncompatibleCheckpoint for another file."""
    try:
        return _Reader(path.read_bytes()).tensors()
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise IncompatibleCheckpoint(
            f"{path} is not a Whisper model of CTranslate2 ({error}); fetch it again"
        ) from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def tensors(self) -> dict[str, Tensor]:
        self._number("I")  # the format's version, the same for all versions of these parts
        if self._text() != _KIND:
            raise ValueError(f"its kind is not {_KIND}")
        self._number("I")
        found = {}
        for _ in range(self._number("I")):
            name = self._text()
            shape = [self._number("I") for _ in range(self._number("B"))]
            number_format, size = self._number("B"), self._number("I")
            start, self._place = self._place, self._place + size
            if number_format == _FLOAT16 and shape:
                values = np.frombuffer(self._content, "<f2", size // 2, start).reshape(shape)
                found[name] = torch.from_numpy(values.astype(np.float32))
        return found

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(f"<{form}", self._content, self._place)
        self._place += struct.calcsize(f"<{form}")
        return int(value)

    def _text(self) -> str:
        size = self._number("H")
        text = self._content[self._place : self._place + size]
        self._place += size
        return text.rstrip(b"\0").decode()
