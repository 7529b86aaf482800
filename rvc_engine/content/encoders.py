"""Content encoders: features of the phonetic content, not of the speaker; docs/decisions/0002-content-encoders.md."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rvc_engine.config import ContentEncoder as EncoderName
from rvc_engine.config import Version
from rvc_engine.content.local_folder import check_fits, embedder_of_folder, local_folder
from rvc_engine.content.names import embedder_name
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.machine import Machine

if TYPE_CHECKING:
    import torch


class ContentEncoder(Protocol):
    """Encoder of the content of speech, 50 frames a second."""

    name: str
    """Value of `embedder_model` in a voice file."""
    feature_size: int

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Encode clips (num_samples,), mono at 16 kHz, of any lengths.

        Returns (frames, feature_size) for each, with `num_content_frames(num_samples)` frames; frame t describes the
        sound around sample 320 t + 160 (HuBERT: + 200).
        """
        ...


def create_encoder(
    name: EncoderName,
    version: Version,
    machine: Machine,
    device: "torch.device | None" = None,
    embedder: str | None = None,
    *,
    dtype: "torch.dtype | None" = None,
) -> ContentEncoder:
    """Load an encoder on a device (None: the CPU), with features as the format's version takes them.

    `embedder` is the encoder that the voice to convert with names; a local encoder must be the same one. `dtype` is the
    format of a HuBERT's products (None: float32); features in bfloat16 have a cosine above 0.999 to those in float32.
    Raises MissingWeights when the weights are not on this machine, InvalidConfig when the encoder has no features for
    the version, IncompatibleCheckpoint when its weights do not fit it or the voice was trained with others.
    """
    import torch

    device, dtype = device or torch.device("cpu"), dtype or torch.float32
    if name == "whisper-tiny":
        from rvc_engine.content.whisper import WhisperTiny

        return WhisperTiny(version, device)
    from rvc_engine.content.hubert import HubertEncoder
    from rvc_engine.weights.catalogue import ENCODER_IDS, Weights

    if name != "local":
        folder = Weights(machine.weights_folder).folder_of(ENCODER_IDS[name])
        return HubertEncoder(folder, version, device, embedder_name(name), dtype)
    folder = local_folder(machine)
    check_fits(folder, version)
    found = embedder_of_folder(folder)
    if embedder not in {None, found}:
        raise IncompatibleCheckpoint(
            f"this voice was trained with the content encoder {embedder}, but {folder} holds {found} (the sha256 of "
            "its weights); another encoder would give garbage: name the folder of the encoder used in training"
        )
    return HubertEncoder(folder, version, device, found, dtype)
