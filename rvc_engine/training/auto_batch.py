"""Batch size (batch_size=auto) and dataset that fit into the device's memory."""

from collections.abc import Sequence

import torch

from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.accelerators import memory_of
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.step import training_step

MAX_AUTO_BATCH_SIZE = 32
"""Larger batches take fewer steps an epoch and learn less from the same recordings."""
CPU_BATCH_SIZE = 4
"""The reference's default: on a CPU a step's time grows with its batch, and memory is seldom the limit."""
MIN_STEPS_PER_EPOCH = 4
"""With fewer steps an epoch would hardly mix its clips."""
MAX_MEMORY_FRACTION = 0.85
"""Share of the free memory for training; the rest is a reserve for other programs and for longer runs."""
MAX_CLIPS_FRACTION = 0.5
"""Share of the free memory for clips cached on the device; training needs the rest."""


def auto_batch_size(state: GanTrainState, clips: Sequence[ClipFiles], num_groups: int, reserved_bytes: int) -> int:
    """The largest micro-batch, a power of two in clips, that memory, dataset and MAX_AUTO_BATCH_SIZE allow.

    On CUDA sizes are tried by steps on noise as long as the longest clip, which change `state`. `num_groups` such
    micro-batches form a global batch; `reserved_bytes` of memory are left to cached clips.
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
    """Peak memory of a step, optimizers included; infinite where it runs out."""
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
    """Take a step on clips of noise."""
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
    """Memory that `ClipsInMemory` needs for all clips: features, wave, and F0 in Hz and in bins."""
    per_frame = 2 * hparams.feature_size + 4 * hparams.hop_length + (12 if hparams.f0 else 0)
    return per_frame * sum(clip.frames for clip in clips)


def clips_fit(clips: Sequence[ClipFiles], hparams: Hyperparameters, device: torch.device) -> bool:
    """Whether all clips can be cached on the device besides the training."""
    return clips_bytes(clips, hparams) <= MAX_CLIPS_FRACTION * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device; of the machine for a CPU."""
    return memory_of(device)[0]
