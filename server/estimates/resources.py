"""What a job takes of disk and memory, by arithmetic: the sizes of its nets, of its clips, and of what it keeps."""

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import Range
from server.settings import GIB

FLOAT = 4

_GENERATOR = 36.5e6
"""Weights of the published generator; versions and rates differ by 3 %. All of them go with the square of the width."""
_DISCRIMINATORS = {"v1": 55.0e6, "v2": 71.4e6}
_SLICE_OVERLAP = 4.0 / 3.7
_NUM_CHECKPOINTS = 3
"""Two are kept while a third is written."""
_CLIP_BYTES = (0.5 * GIB, 1.6 * GIB)
"""What training holds for one clip at full width in float32: a rule of thumb."""
_LIBRARIES_BYTES = 0.7 * GIB
"""What PyTorch and its libraries take before any net is there."""
_SECONDS_PER_SAVE = 60


def net_weights(config: TrainingConfig) -> tuple[float, float]:
    """Numbers in the generator, and in both nets."""
    share = (config.width / 192) ** 2
    generator = share * _GENERATOR
    return generator, generator + share * _DISCRIMINATORS[config.version]


def disk_bytes(config: TrainingConfig, sound_seconds: float) -> Range:
    """In the data folder, at the most full moment. Checkpoints in the storage are links to those of the workspace."""
    generator, both = net_weights(config)
    pair = 3 * FLOAT * both  # weights and the optimizer's two numbers for each
    seconds = sound_seconds * _SLICE_OVERLAP
    features = seconds * 50 * FLOAT * config.feature_size
    prepared = seconds * FLOAT * (config.sample_rate_hz + 16_000 + (300 if config.f0 else 0)) + features
    voice = 2 * generator
    num_voices = 2 + (config.evaluate != "never") + (_num_saves(config) if config.save_every_weights else 0)
    total = prepared + (_NUM_CHECKPOINTS + _num_saves(config)) * pair + 3 * features + 2 * num_voices * voice
    return Range(low=0.85 * total, high=1.2 * total + 50e6)


def _num_saves(config: TrainingConfig) -> int:
    """G_/D_ pairs that lie on the disk at once."""
    if config.save_only_latest:
        return 1
    number = -(-config.total_epochs // config.save_every_epochs)
    if config.max_train_seconds is not None:
        number = min(number, 1 + int(config.max_train_seconds / _SECONDS_PER_SAVE))
    most = {"all": number, "latest": 2, "best": config.num_best_saves + 2}[config.keep_saves]
    return min(number, most)


def memory_bytes(config: TrainingConfig, clips_at_once: tuple[int, int], sound_seconds: float | None) -> Range:
    """Of the device while it trains: weights, gradients and the optimizer's two numbers, and what the clips need."""
    _, both = net_weights(config)
    share = config.width / 192
    fixed = 4 * FLOAT * both + _LIBRARIES_BYTES
    less = 0.55 if config.gradient_checkpointing else 0.8  # bf16, or fp16, keeps some in half the room
    kept = 0.0
    if sound_seconds is not None:  # a GPU keeps the clips, where they fit
        kept = sound_seconds * FLOAT * (50 * config.feature_size + config.sample_rate_hz)
    low, high = (per_clip * share * number for per_clip, number in zip(_CLIP_BYTES, clips_at_once, strict=True))
    return Range(low=0.9 * fixed + less * low + kept, high=1.2 * fixed + high + kept)
