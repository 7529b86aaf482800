"""FCPE: pitch by convolutions alone (CNChTu, "FCPE: fast context-based pitch estimation", torchfcpe, MIT), and its
front end.

The published model is a conformer without attention: a stem, six gated depthwise convolutions, 360 bins. Tensor names
are those of the published file, which loads unchanged.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from rvc_engine.audio.mel import mel_front_end
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.pitch.curve import HOP_LENGTH
from rvc_engine.pitch.neural.salience import NUM_BINS

N_FFT = 1024
N_MELS = 128
LOG_FLOOR = 1e-5
POWER_FLOOR = 1e-9
"""Added under the root of the spectrum's power."""
_WIDTH = 512
_NUM_LAYERS = 6
_KERNEL = 31


def log_mel(waves: Tensor) -> Tensor:
    """Waves (B, num_samples) at 16 kHz to (B, N_MELS, 1 + num_samples // 160); the last frame is repeated.

    Frame k is centred on sample 160 k + 80: the frames lie within the wave, which is reflected at its ends, or padded
    with zeros where it is too short for that.
    """
    frames = 1 + waves.shape[-1] // HOP_LENGTH
    left = (N_FFT - HOP_LENGTH) // 2
    right = max((N_FFT - HOP_LENGTH + 1) // 2, N_FFT - waves.shape[-1] - left)
    mode = "reflect" if right < waves.shape[-1] else "constant"
    padded = F.pad(waves.unsqueeze(1), (left, right), mode).squeeze(1)
    window, filters = mel_front_end(ANALYSIS_SAMPLE_RATE, N_FFT, N_MELS, waves.device)
    spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=window, center=False, return_complex=True)
    magnitudes = (spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR).sqrt()
    mel = (filters @ magnitudes).clamp(min=LOG_FLOOR).log()
    return torch.cat([mel, mel[..., -1:]], dim=-1)[..., :frames]


class _Transposed(nn.Module):
    """Transposition as a module, so that its neighbours have their published numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) <-> (B, C, T)."""
        return x.transpose(1, 2)


class _Depthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, _KERNEL, padding=_KERNEL // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) -> (B, channels, T)."""
        return self.conv(x)


class _Gated(nn.Module):
    """Layer norm, gated linear unit, depthwise convolution, projection."""

    def __init__(self) -> None:
        super().__init__()
        inner = 2 * _WIDTH
        self.net = nn.Sequential(
            nn.LayerNorm(_WIDTH),
            _Transposed(),
            nn.Conv1d(_WIDTH, 2 * inner, 1),
            nn.GLU(dim=1),
            _Depthwise(inner),
            nn.SiLU(),
            nn.Conv1d(inner, _WIDTH, 1),
            _Transposed(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, _WIDTH) -> (B, T, _WIDTH)."""
        return self.net(x)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conformer = _Gated()
        self.norm = nn.LayerNorm(_WIDTH)
        """Norm of the disabled attention: in the published file, unused."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, _WIDTH) -> (B, T, _WIDTH)."""
        return x + self.conformer(x)


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder_layers = nn.ModuleList(_Layer() for _ in range(_NUM_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, _WIDTH) -> (B, T, _WIDTH)."""
        for layer in self.encoder_layers:
            x = layer(x)
        return x


class _WeightNormLinear(nn.Module):
    """`nn.Linear` under weight norm, with the published names of its parts."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        plain = nn.Linear(in_features, out_features)
        self.bias = nn.Parameter(plain.bias.detach())
        self.weight_g = nn.Parameter(plain.weight.detach().norm(dim=1, keepdim=True))
        self.weight_v = nn.Parameter(plain.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0), self.bias)


class Fcpe(nn.Module):
    """Model from log-mels to the salience of each pitch bin. Group norm makes every frame depend on the clip."""

    cent_table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cent_table", torch.zeros(NUM_BINS))
        """Pitch of each bin in cents above 10 Hz, from the file."""
        self.register_buffer("gaussian_blurred_cent_mask", torch.zeros(()))
        """Used by the published training only."""
        self.input_stack = nn.Sequential(
            nn.Conv1d(N_MELS, _WIDTH, 3, padding=1),
            nn.GroupNorm(4, _WIDTH),
            nn.LeakyReLU(),
            nn.Conv1d(_WIDTH, _WIDTH, 3, padding=1),
        )
        self.net = _Layers()
        self.norm = nn.LayerNorm(_WIDTH)
        self.output_proj = _WeightNormLinear(_WIDTH, NUM_BINS)

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mels (B, N_MELS, T) -> salience (B, T, NUM_BINS), each 0..1."""
        x = self.net(self.input_stack(mel).transpose(1, 2))
        return self.output_proj(self.norm(x)).sigmoid()
