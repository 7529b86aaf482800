"""The batch of clips that a training step reads."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips padded to the longest of them, on the device."""

    features: Tensor
    """(B, T, feature_size), content features at 100 Hz."""
    coarse_f0: Tensor | None
    """(B, T), pitch bins; None without pitch."""
    f0: Tensor | None
    """(B, T), Hz; None without pitch."""
    spec: Tensor
    """(B, bins, T), linear magnitudes."""
    wave: Tensor
    """(B, T * hop_length)."""
    lengths: Tensor
    """(B,), frames."""
    speakers: Tensor
    """(B,), ids."""
