"""Published hyperparameters of each version and rate: of spectra, models and training. No torch.

A voice file contains them as a list of 18 values, a workspace as RVC's `config.json`; this module writes both, and
parses the list.
"""

import json
from dataclasses import dataclass
from typing import Any, Self

from rvc_engine.config import NUM_SPEAKERS, TrainingConfig, Version

N_HEADS = 2
N_LAYERS = 6
TEXT_KERNEL_SIZE = 3
RESBLOCK_KERNEL_SIZES = (3, 7, 11)
RESBLOCK_DILATIONS = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
BETAS = (0.8, 0.99)
EPSILON = 1e-9
WEIGHT_DECAY = 0.01
MEL_WEIGHT = 45.0
KL_WEIGHT = 1.0
LOG_INTERVAL = 200
MAX_FRAMES = 900
"""Largest length of a training clip, in frames of 10 ms; longer clips are cut."""
PUBLISHED_WIDTH = 192
"""Hidden channels of published weights."""
ANALYSIS_SAMPLE_RATE = 16_000
"""Sample rate of the input of pitch estimators and content encoders, in Hz."""
NUM_NEIGHBOURS = 8
"""Nearest rows that RVC and Applio read from an index for each row of features."""

_UPSAMPLING: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    # version/rate: rates and kernel sizes of the transposed convolutions; the rates multiply to the hop length
    "v1/32k": ((10, 4, 2, 2, 2), (16, 16, 4, 4, 4)),
    "v1/40k": ((10, 10, 2, 2), (16, 16, 4, 4)),
    "v1/48k": ((10, 6, 2, 2, 2), (16, 16, 4, 4, 4)),
    "v2/32k": ((10, 8, 2, 2), (20, 16, 4, 4)),
    "v2/40k": ((10, 10, 2, 2), (16, 16, 4, 4)),
    "v2/48k": ((12, 10, 2, 2), (24, 20, 4, 4)),
}
_SEGMENT_FRAMES = {"v1/32k": 40, "v1/40k": 32, "v1/48k": 24, "v2/32k": 40, "v2/40k": 32, "v2/48k": 36}
_N_FFT = {32_000: 1024, 40_000: 2048, 48_000: 2048}
_N_MELS = {32_000: 80, 40_000: 125, 48_000: 128}

# Entries of RVC's `config.json` that are the same for every voice.
_RVC_TRAIN: dict[str, object] = {
    "epochs": 20000,
    "init_lr_ratio": 1,
    "warmup_epochs": 0,
}
_RVC_DATA: dict[str, object] = {"max_wav_value": 32768.0, "mel_fmin": 0.0, "mel_fmax": None}
_RVC_MODEL: dict[str, object] = {
    "n_heads": N_HEADS,
    "n_layers": N_LAYERS,
    "kernel_size": TEXT_KERNEL_SIZE,
    "p_dropout": 0,
    "resblock": "1",
    "resblock_kernel_sizes": RESBLOCK_KERNEL_SIZES,
    "resblock_dilation_sizes": RESBLOCK_DILATIONS,
    "use_spectral_norm": False,
}


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of one kind of voice."""

    version: Version
    sample_rate: int
    """Hz."""
    f0: bool
    n_fft: int
    """Length of the FFT and of its window, in samples."""
    hop_length: int
    n_mels: int
    segment_frames: int
    """Length of a training segment in frames."""
    hidden_channels: int
    """Also the number of inter (latent) channels."""
    filter_channels: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channels: int
    gin_channels: int
    """Width of the speaker embedding."""
    num_speakers: int = NUM_SPEAKERS
    betas: tuple[float, float] = BETAS
    """AdamW's, for generator and discriminators; `epsilon` too."""
    epsilon: float = EPSILON
    mel_weight: float = MEL_WEIGHT
    """Coefficient of the mel loss."""
    kl_weight: float = KL_WEIGHT
    """Coefficient of the KL divergence."""
    log_interval: int = LOG_INTERVAL
    """Steps between lines with the losses."""

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Self:
        """Hyperparameters of a run with this config."""
        key, rate = f"{config.version}/{config.sample_rate}", config.sample_rate_hz
        rates, kernels = _UPSAMPLING[key]
        return cls(
            version=config.version,
            sample_rate=rate,
            f0=config.f0,
            n_fft=_N_FFT[rate],
            hop_length=rate // 100,
            n_mels=_N_MELS[rate],
            segment_frames=_SEGMENT_FRAMES[key],
            hidden_channels=config.width,
            filter_channels=4 * config.width,
            upsample_rates=rates,
            upsample_kernel_sizes=kernels,
            upsample_initial_channels=512 * config.width // PUBLISHED_WIDTH,
            gin_channels=256 * config.width // PUBLISHED_WIDTH,
        )

    @property
    def feature_size(self) -> int:
        """Content features per frame."""
        return 256 if self.version == "v1" else 768

    @property
    def spec_channels(self) -> int:
        """Bins of the linear spectrogram."""
        return self.n_fft // 2 + 1

    @property
    def segment_samples(self) -> int:
        """Length of a training segment in samples."""
        return self.segment_frames * self.hop_length

    @property
    def rate_name(self) -> str:
        """`32k`, `40k` or `48k`."""
        return f"{self.sample_rate // 1000}k"

    def voice_config(self) -> list[Any]:
        """The 18 values of `config` in a voice file, in the order of the loaders' arguments."""
        return [
            self.spec_channels,
            self.segment_frames,
            self.hidden_channels,
            self.hidden_channels,
            self.filter_channels,
            N_HEADS,
            N_LAYERS,
            TEXT_KERNEL_SIZE,
            0,
            "1",
            list(RESBLOCK_KERNEL_SIZES),
            [list(dilations) for dilations in RESBLOCK_DILATIONS],
            list(self.upsample_rates),
            self.upsample_initial_channels,
            list(self.upsample_kernel_sizes),
            self.num_speakers,
            self.gin_channels,
            self.sample_rate,
        ]

    @classmethod
    def from_voice_config(cls, config: list[Any], version: Version, f0: bool, num_speakers: int) -> Self:
        """Parse a voice file's `config`; `num_speakers` is the number of rows of its `emb_g.weight`.

        Raises ValueError, TypeError, KeyError or IndexError for an invalid list.
        """
        rate = int(config[17])
        return cls(
            version=version,
            sample_rate=rate,
            f0=f0,
            n_fft=2 * (int(config[0]) - 1),
            hop_length=rate // 100,
            n_mels=_N_MELS[rate],
            segment_frames=int(config[1]),
            hidden_channels=int(config[3]),
            filter_channels=int(config[4]),
            upsample_rates=tuple(map(int, config[12])),
            upsample_kernel_sizes=tuple(map(int, config[14])),
            upsample_initial_channels=int(config[13]),
            gin_channels=int(config[16]),
            num_speakers=num_speakers,
        )

    def workspace_config(self, config: TrainingConfig, batch_size: int) -> str:
        """Text of RVC's `config.json`, plus `version` and `f0`, which RVC does not write and ignores.

        `batch_size` is the micro-batch size, a number also with batch_size=auto.
        """
        return json.dumps(self.workspace_tree(config, batch_size), indent=4, sort_keys=True)

    def workspace_tree(self, config: TrainingConfig, batch_size: int) -> dict[str, Any]:
        """Contents of `workspace_config`."""
        mel_weight = self.mel_weight
        train = _RVC_TRAIN | {
            "log_interval": self.log_interval,
            "betas": self.betas,
            "eps": self.epsilon,
            "c_mel": int(mel_weight) if mel_weight == int(mel_weight) else mel_weight,
            "c_kl": self.kl_weight,
            "seed": config.seed,
            "learning_rate": config.learning_rate,
            "batch_size": batch_size,
            "lr_decay": config.lr_decay,
            "segment_size": self.segment_samples,
        }
        data = _RVC_DATA | {
            "sampling_rate": self.sample_rate,
            "filter_length": self.n_fft,
            "hop_length": self.hop_length,
            "win_length": self.n_fft,
            "n_mel_channels": self.n_mels,
        }
        model = _RVC_MODEL | {
            "inter_channels": self.hidden_channels,
            "hidden_channels": self.hidden_channels,
            "filter_channels": self.filter_channels,
            "upsample_rates": self.upsample_rates,
            "upsample_initial_channel": self.upsample_initial_channels,
            "upsample_kernel_sizes": self.upsample_kernel_sizes,
            "gin_channels": self.gin_channels,
            "spk_embed_dim": self.num_speakers,
        }
        return {"version": self.version, "f0": self.f0, "train": train, "data": data, "model": model}
