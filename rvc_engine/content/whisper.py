"""The encoder that the package carries: blocks 2 and 3 of Whisper tiny.en side by side, 768 wide."""

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
"""Counted from 1 (`hidden_states[2]` and `[3]` in `transformers`): what the second and third of four blocks put out."""
WINDOW_FRAMES = 200
"""4 s, the length of the longest training slice. Whisper's rows depend on their position in the window and on how much
the window holds, so a longer one at conversion would give rows of another kind than those a voice was trained on."""
OVERLAP_FRAMES = 100
"""Half a window: every row of a long clip is then the mean of two, which brings it nearer to those of training."""


class WhisperTiny:
    """Whisper tiny.en up to its third block. Row t is centred on sample 320 t + 160, midway in its two pitch frames."""

    name = embedder_name("whisper-tiny")
    feature_size = 768

    def __init__(self, version: Version, device: torch.device, weights: Path = WHISPER_TINY_WEIGHTS) -> None:
        """Raises InvalidConfig for v1, whose rows are 256 wide."""
        if version != "v2":
            raise InvalidConfig(f"content=whisper-tiny gives {self.feature_size} features a row; it is for version=v2")
        self._device = device
        self._model = WhisperEncoder.from_state_dict(load_file(weights)).to(device)

    def encode(self, waves_16k: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `ContentEncoder.encode`."""
        return encode_in_windows(waves_16k, self._encode_batch, self.feature_size, WINDOW_FRAMES, OVERLAP_FRAMES)

    @torch.inference_mode()
    def _encode_batch(self, waves: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        counts = [num_content_frames(len(wave)) for wave in waves]
        # The second convolution centres row t on mel frame 2 t, so half a row later puts it midway.
        mels = [
            log_mel(torch.from_numpy(wave).to(self._device)[None], FRAME_SAMPLES // 2, 2 * count)[0].T
            for wave, count in zip(waves, counts, strict=True)
        ]
        rows = torch.cat(self._model(pad_sequence(mels, batch_first=True).mT, LAYERS, counts), dim=-1).cpu().numpy()
        return [clip[:count] for clip, count in zip(rows, counts, strict=True)]
