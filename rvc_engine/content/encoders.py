"""Content encoders: what is said, without who says it. Which and why: docs/decisions/0002-content-encoders.md."""

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
    """Encodes the content of clips of speech in 50 frames a second."""

    name: str
    """What a voice carries as `embedder_model`."""
    feature_size: int

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Features of each clip, (rows, feature_size).

        Takes clips of one channel at 16 kHz, (num_samples,), of any lengths; gives `windows.num_rows(num_samples)` rows
        for each. Row t tells of the sound around sample 320 t + 160 (HuBERT: + 200).
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
    """The encoder of that name, on that device (None: the CPU), with rows as that version of the format takes them.

    `embedder` is what the voice that is to be spoken names; a local encoder must be that very one. `dtype` is that of a
    HuBERT's products, float32 unless said: with bfloat16 features of random weights keep a cosine above 0.999 to those.
    Raises MissingWeights when its weights are not on this machine, InvalidConfig when it has no rows for the version,
    IncompatibleCheckpoint when its weights do not fit it or are others than the voice was trained with.
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
            f"this voice was trained with the content encoder {embedder}, and {folder} holds {found} (the sha256 of "
            "the weights); another encoder would give garbage: name the folder that the voice was trained with"
        )
    return HubertEncoder(folder, version, device, found, dtype)
