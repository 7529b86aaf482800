"""Whisper's audio encoder and its front end (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022), for clips of any length up to 30 s, without padding them to 30 s.

Tensor names are those of WhisperEncoder in `transformers`, so that its weights load unchanged.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.audio.mel import mel_front_end
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE

N_FFT = 400
HOP_LENGTH = 160
N_MELS = 80
MAX_POSITIONS = 1500
"""Maximal number of output frames: 30 s."""
HEAD_SIZE = 64
DYNAMIC_RANGE = 8.0
"""Decades of power below the loudest point; what is quieter is raised to that."""


def log_mel(waves: Tensor, first_centre: int = 0, frames: int | None = None) -> Tensor:
    """Whisper's input (B, N_MELS, frames) for waves (B, num_samples) at 16 kHz, each scaled by its own loudest point.

    Frame k is centred on sample `first_centre + 160 k`. Whisper's own front end has first_centre 0 and
    num_samples // 160 frames (None). The wave is reflected where a frame extends beyond its ends, and must be longer
    than the reflected part.
    """
    frames = waves.shape[-1] // HOP_LENGTH if frames is None else frames
    left = N_FFT // 2 - first_centre
    right = (frames - 1) * HOP_LENGTH + N_FFT - left - waves.shape[-1]
    padded = F.pad(waves.unsqueeze(1), (left, max(right, 0)), "reflect").squeeze(1)
    padded = padded[:, : (frames - 1) * HOP_LENGTH + N_FFT]
    window, filters = mel_front_end(ANALYSIS_SAMPLE_RATE, N_FFT, N_MELS, waves.device)
    spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True)
    mel = (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
    floor = mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE
    return (torch.maximum(mel, floor) + 4.0) / 4.0


class _SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_SIZE
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, T, width) -> (B, T, width); `keys` (B, 1, 1, T) are the frames to attend to, or None for all."""
        q, k, v = (self._heads(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, HEAD_SIZE)).transpose(1, 2)


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(width)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, T, width) -> (B, T, width); `keys` (B, 1, 1, T) are the frames to attend to, or None for all."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), keys)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperEncoder(nn.Module):
    """Two convolutions, the second of stride 2, then pre-norm transformer blocks."""

    def __init__(self, width: int, num_layers: int, ffn_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(N_MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(MAX_POSITIONS, width)
        self.layers = nn.ModuleList(_Block(width, ffn_width) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(width)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor]) -> "WhisperEncoder":
        """Build the model of these weights, in float32, for inference. Every name and shape must fit."""
        ffn_width, width = weights["layers.0.fc1.weight"].shape
        num_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        model = cls(width, num_layers, ffn_width)
        model.load_state_dict({name: value.float() for name, value in weights.items()})
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor, layers: Sequence[int], content_frames: Sequence[int] | None = None) -> list[Tensor]:
        """Outputs of the blocks `layers`, each (B, ceil(frames / 2), width), of mel (B, N_MELS, frames).

        Blocks count from 1; 0 is the first one's input. The final `layer_norm` is not applied. `content_frames` is the
        number of each clip's own, half as many as its mel frames, where mels are padded with zeros. Padding changes no
        features: the convolutions pad with zeros too, and the second does not reach beyond a clip's last frame.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        assert x.shape[1] <= MAX_POSITIONS, f"{x.shape[1]} frames; Whisper takes at most {MAX_POSITIONS}"
        x = x + self.embed_positions.weight[: x.shape[1]]
        keys = None
        if content_frames is not None and min(content_frames) < x.shape[1]:
            keys = (torch.arange(x.shape[1]) < torch.tensor(content_frames)[:, None])[:, None, None, :].to(x.device)
        outputs = [x]
        for block in self.layers[: max(layers)]:
            outputs.append(block(outputs[-1], keys))
        return [outputs[layer] for layer in layers]
