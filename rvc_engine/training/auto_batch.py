"""What fits into the device's memory: clips a step (batch_size=auto), and a whole dataset."""

from collections.abc import Sequence

import psutil
import torch

from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.step import training_step

MAX_AUTO_BATCH_SIZE = 32
"""Larger batches take fewer steps an epoch, and learn less of the same recordings."""
CPU_BATCH_SIZE = 4
"""The reference's default: on a CPU a larger batch is slower by as much, and memory is seldom the limit."""
MIN_STEPS_PER_EPOCH = 4
"""An epoch of fewer steps than this would hardly mix its clips."""
MAX_MEMORY_FRACTION = 0.85
"""Of the free memory, for training: the rest is for what other programs and longer runs come to need."""
MAX_CLIPS_FRACTION = 0.5
"""Of the free memory, for clips kept on the device: training needs the rest."""


def auto_batch_size(state: GanTrainState, clips: Sequence[ClipFiles], num_groups: int, reserved_bytes: int) -> int:
    """Clips that one pass should take: the largest power of two that memory, dataset and good sense allow.

    On CUDA it is tried: steps on made-up clips as long as the longest, which spoil the nets. `num_groups` such passes
    form one effective batch; `reserved_bytes` of memory are promised to the dataset.
    """
    cap = max(1, min(MAX_AUTO_BATCH_SIZE, len(clips) // (MIN_STEPS_PER_EPOCH * num_groups)))
    device = state.device
    if device.type != "cuda":
        return min(CPU_BATCH_SIZE, cap)
    frames = max(clip.frames for clip in clips)
    limit = MAX_MEMORY_FRACTION * (free_bytes(device) + torch.cuda.memory_reserved(device)) - reserved_bytes
    fits, size = 1, 1
    while size <= cap and _peak_bytes(state, size, frames, device) <= limit:
        fits, size = size, 2 * size
    torch.cuda.empty_cache()
    return fits


def _peak_bytes(state: GanTrainState, size: int, frames: int, device: torch.device) -> float:
    """The most memory that a step takes, optimizers included; infinite where it runs out."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _trial_step(state, size, frames, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return float("inf")
    return torch.cuda.max_memory_reserved(device)


def _trial_step(state: GanTrainState, size: int, frames: int, device: torch.device) -> None:
    """A step on clips of noise."""
    hparams = state.hparams
    rng = torch.Generator(device).manual_seed(0)
    wave = 0.1 * torch.randn(size, frames * hparams.hop_length, generator=rng, device=device)
    batch = Batch(
        features=torch.randn(size, frames, hparams.feature_size, generator=rng, device=device),
        coarse_f0=torch.ones(size, frames, dtype=torch.long, device=device) if hparams.f0 else None,
        f0=torch.full((size, frames), 200.0, device=device) if hparams.f0 else None,
        spec=spectrogram(wave, hparams.n_fft, hparams.hop_length),
        wave=wave,
        lengths=torch.full((size,), frames, device=device),
        speakers=torch.zeros(size, dtype=torch.long, device=device),
    )
    starts = torch.zeros(size, dtype=torch.long, device=device)
    training_step(state, batch, starts, Noise.draw(hparams, size, frames, rng))


def clips_bytes(clips: Sequence[ClipFiles], hparams: Hyperparameters) -> int:
    """Memory of all clips as `ClipsInMemory` holds them: features, wave, and pitch in both forms."""
    per_frame = 2 * hparams.feature_size + 4 * hparams.hop_length + (12 if hparams.f0 else 0)
    return per_frame * sum(clip.frames for clip in clips)


def clips_fit(clips: Sequence[ClipFiles], hparams: Hyperparameters, device: torch.device) -> bool:
    """Whether all clips may stay on the device beside the training."""
    return clips_bytes(clips, hparams) <= MAX_CLIPS_FRACTION * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses yet."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
