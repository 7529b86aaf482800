"""Content encoder that is part of the package: blocks 2 and 3 of Whisper tiny.en side by side, 768 features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from rvc_engine.config import Version
from rvc_engine.content.names import embedder_name
from rvc_engine.content.whisper_model import WhisperEncoder, log_mel
from rvc_engine.content.windows import FRAME_SAMPLES, encode_in_windows, num_content_frames
from rvc_engine.errors import InvalidConfig
from rvc_engine.weights.assets import WHISPER_TINY_WEIGHTS

LAYERS = (2, 3)
"""Blocks whose output is used, of four, counted from 1: `hidden_states[2]` and `[3]` in `transformers`."""
WINDOW_FRAMES = 200
"""4 s, the length of the longest training slice. Whisper's features depend on the position in the window and on its
length, so a longer one in conversion would give other features than those that a voice was trained on."""
OVERLAP_FRAMES = 100
"""Half a window: every frame of a long clip is then the mean of two, which is nearer to those of training."""


class WhisperTiny:
    """Whisper tiny.en up to its third block. Frame t is centred on sample 320 t + 160, between its two pitch frames."""

    name = embedder_name("whisper-tiny")
    feature_size = 768

    def __init__(self, version: Version, device: torch.device, weights: Path = WHISPER_TINY_WEIGHTS) -> None:
        """Raises InvalidConfig for v1, which needs 256 features."""
        if version != "v2":
            raise InvalidConfig(f"content=whisper-tiny has {self.feature_size} features per frame; use version=v2")
        self._device = device
        self._model = WhisperEncoder.from_state_dict(load_file(weights)).to(device)

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `ContentEncoder.encode`."""
        return encode_in_windows(waves_16k, self._encode_batch, self.feature_size, WINDOW_FRAMES, OVERLAP_FRAMES)

    @torch.inference_mode()
    def _encode_batch(self, waves: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        counts = [num_content_frames(len(wave)) for wave in waves]
        # The second convolution centres frame t on mel frame 2 t; half a frame later is between the pitch frames.
        mels = [
            log_mel(torch.from_numpy(wave).to(self._device)[None], FRAME_SAMPLES // 2, 2 * count)[0].T
            for wave, count in zip(waves, counts, strict=True)
        ]
        features = torch.cat(self._model(pad_sequence(mels, batch_first=True).mT, LAYERS, counts), dim=-1).cpu().numpy()
        return [clip[:count] for clip, count in zip(features, counts, strict=True)]
