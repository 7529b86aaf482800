"""Disk and memory of a job, by arithmetic: sizes of its networks, its clips, and the files that it keeps."""

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import Range
from server.settings import GIB

FLOAT = 4

_GENERATOR = 36.5e6
"""Weights of the published generator; versions and sample rates differ by 3 %. They grow with the width squared."""
_DISCRIMINATORS = {"v1": 55.0e6, "v2": 71.4e6}
_SLICE_OVERLAP = 4.0 / 3.7
_NUM_CHECKPOINTS = 3
"""Two are kept while a third is written."""
_CLIP_BYTES = (0.5 * GIB, 1.6 * GIB)
"""Activations of one clip at full width in float32: a rule of thumb."""
_LIBRARIES_BYTES = 0.7 * GIB
"""Memory of PyTorch and its libraries before any network is built."""
_AUTO_BATCH = {False: (4, 4), True: (4, 32)}
"""Clips of a batch with `batch_size` auto, without and with a GPU."""
_SECONDS_PER_SAVE = 60


def net_weights(config: TrainingConfig) -> tuple[float, float]:
    """Number of weights in the generator, and in generator and discriminators together."""
    share = (config.width / 192) ** 2
    generator = share * _GENERATOR
    return generator, generator + share * _DISCRIMINATORS[config.version]


def disk_bytes(config: TrainingConfig, audio_seconds: float) -> Range:
    """Peak size in the data folder. Checkpoints in the storage are hard links to those of the workspace."""
    generator, both = net_weights(config)
    pair = 3 * FLOAT * both  # weights and the optimizer's two moments
    seconds = audio_seconds * _SLICE_OVERLAP
    features = seconds * 50 * FLOAT * config.feature_size
    prepared = seconds * FLOAT * (config.sample_rate_hz + 16_000 + (300 if config.f0 else 0)) + features
    voice = 2 * generator
    num_voices = 2 + (config.evaluate != "never") + (_num_saves(config) if config.save_every_weights else 0)
    total = prepared + (_NUM_CHECKPOINTS + _num_saves(config)) * pair + 3 * features + 2 * num_voices * voice
    return Range(low=0.85 * total, high=1.2 * total + 50e6)


def _num_saves(config: TrainingConfig) -> int:
    """Largest number of G_/D_ pairs on the disk."""
    if config.save_only_latest:
        return 1
    number = -(-config.epoch_limit // config.save_every_epochs)
    if config.max_train_seconds is not None:
        number = min(number, 1 + int(config.max_train_seconds / _SECONDS_PER_SAVE))
    most = {"all": number, "latest": 2, "best": config.num_best_saves + 2}[config.keep_saves]
    return min(number, most)


def batch_range(config: TrainingConfig, has_gpu: bool) -> tuple[int, int]:
    """Clips of a training step, at least and at most."""
    low, high = _AUTO_BATCH[has_gpu] if config.batch_size == "auto" else (config.batch_size, config.batch_size)
    return low * config.accumulate_steps, high * config.accumulate_steps


def least_memory_bytes(config: TrainingConfig) -> int:
    """Device memory below which no training with these options fits, whatever the size of its micro-batches.

    In steps of a quarter of a GiB, so that jobs with similar options need the same.
    """
    _, both = net_weights(config)
    step = GIB // 4
    return int(0.9 * (4 * FLOAT * both + _LIBRARIES_BYTES) // step * step)


def memory_bytes(config: TrainingConfig, num_clips: tuple[int, int], audio_seconds: float | None) -> Range:
    """Device memory of training: weights, gradients, the optimizer's two moments, and activations of `num_clips`."""
    _, both = net_weights(config)
    share = config.width / 192
    fixed = 4 * FLOAT * both + _LIBRARIES_BYTES
    less = 0.55 if config.gradient_checkpointing else 0.8  # bf16 or fp16 halves a part of them
    kept = 0.0
    if audio_seconds is not None:  # a GPU keeps the clips in memory, where they fit
        kept = audio_seconds * FLOAT * (50 * config.feature_size + config.sample_rate_hz)
    low, high = (per_clip * share * number for per_clip, number in zip(_CLIP_BYTES, num_clips, strict=True))
    return Range(low=0.9 * fixed + less * low + kept, high=1.2 * fixed + high + kept)
