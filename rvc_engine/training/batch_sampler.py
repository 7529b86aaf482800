"""The batches of a training: their size, their order, and this rank's shard of each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles, epoch_batches
from rvc_engine.data.loader import (
    BatchPlan,
    ClipLoader,
    ClipsInMemory,
    ClipsOnDisk,
    ClipSource,
    length_buckets,
    to_device_tensors,
)
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.training.auto_batch import auto_batch_size, clips_bytes, clips_fit
from rvc_engine.training.micro_batches import MicroBatcher


@dataclass(frozen=True)
class GlobalBatch:
    """The clips of one optimizer step over all ranks, with this rank's shard as tensors."""

    clips: Sequence[int]
    """Indices of the clips."""
    num_frames: int
    """Frames of all clips, without padding."""
    frames: int
    """Padded length; random numbers are drawn for so many frames."""
    lengths: Tensor
    """(clips,), frames, on the device."""
    batch: Batch | None
    """This rank's shard; None where it has no clips, as can happen in an epoch's last batch."""


class BatchSampler:
    """Batches of an epoch, planned identically on all ranks, with each clip once.

    On a GPU all batches have one size: a few clips come twice.
    """

    def __init__(
        self,
        clips: Sequence[ClipFiles],
        hparams: Hyperparameters,
        config: TrainingConfig,
        micro_batch_size: int,
        source: ClipSource,
        device: torch.device,
        distributed: DistributedContext,
        report: StageReport,
    ) -> None:
        """`micro_batch_size` clips pass the models at once, on each rank."""
        self.micro_batch_size, self._seed, self._distributed = micro_batch_size, config.seed, distributed
        self.lengths = [clip.frames for clip in clips]
        self._device = device
        # A batch of another size would need graphs of its own, and eager steps beside those that are there.
        self._fills_last = uses_length_buckets(device)
        self._length_buckets = length_buckets(self.lengths) if uses_length_buckets(device) else None
        self.batch_size = micro_batch_size * config.accumulate_steps * distributed.world_size
        """Clips a step."""
        self.steps_per_epoch = math.ceil(len(clips) / self.batch_size)
        self.micro_batcher = MicroBatcher(micro_batch_size, distributed, report.warn)
        self._loader = ClipLoader(source, hparams, device)
        parts = [f"{distributed.world_size} processes"] if distributed.world_size > 1 else []
        parts += [f"{config.accumulate_steps} micro-batches"] if config.accumulate_steps > 1 else []
        self._parts = f" ({' of '.join([*parts, str(micro_batch_size)])} each)" if parts else ""

    @classmethod
    def from_config(
        cls,
        clips: Sequence[ClipFiles],
        state: GanTrainState,
        config: TrainingConfig,
        progress: TrainProgress | None,
        distributed: DistributedContext,
        report: StageReport,
    ) -> "BatchSampler":
        """Create the sampler. batch_size=auto takes the size at `progress`, or without one tries steps on `state`."""
        hparams, device = state.hparams, state.device
        wants_cache = config.cache_data_on_device or device.type != "cpu"
        caches_clips = wants_cache and not distributed.all_reduce_any(not clips_fit(clips, hparams, device))
        if wants_cache and not caches_clips:
            log = report.warn if config.cache_data_on_device else report.log
            log(
                f"the dataset ({clips_bytes(clips, hparams) / 1e6:.0f} MB) does not fit into the device's memory "
                "besides the training; continuing without cache_data_on_device"
            )
        num_groups = config.accumulate_steps * distributed.world_size
        if config.batch_size != "auto":
            micro_batch_size = config.batch_size
        elif progress is not None:
            micro_batch_size = max(1, progress.batch_size // num_groups)
        else:
            reserved_bytes = clips_bytes(clips, hparams) if caches_clips else 0
            micro_batch_size = distributed.all_reduce_min(auto_batch_size(state, clips, num_groups, reserved_bytes))
            report.log(f"batch_size=auto: {micro_batch_size} clips at a time")
        source = _clip_source(clips, hparams, device, caches_clips)
        return cls(clips, hparams, config, micro_batch_size, source, device, distributed, report)

    def __str__(self) -> str:
        batches = f"{len(self.lengths)} clips in batches of {self.batch_size}{self._parts}"
        return f"{batches}: {self.steps_per_epoch} steps an epoch"

    def epoch_batches(self, epoch: int, first: int) -> Iterator[GlobalBatch]:
        """The batches of an epoch, starting with the `first`."""
        plan = epoch_batches(self.lengths, self.batch_size, self._seed, epoch, fills_last=self._fills_last)[first:]
        shards = [clips[self._distributed.shard(clips)] for clips in plan]
        # On a GPU all ranks pad alike: a graph of one shape is due on all of them in one step.
        padded = plan if self._length_buckets else shards
        batches = self._loader.batches(
            [BatchPlan(shard, self._padded_length(clips)) for shard, clips in zip(shards, padded, strict=True)]
        )
        lengths = to_device_tensors(self._device, [[self.lengths[clip] for clip in clips] for clips in plan])
        for clips, clip_lengths, batch in zip(plan, lengths, batches, strict=True):
            yield GlobalBatch(
                clips, sum(self.lengths[clip] for clip in clips), self._padded_length(clips), clip_lengths, batch
            )

    @property
    def batch_sizes(self) -> set[int]:
        """The sizes in clips of an epoch's batches: the last may be smaller where it is not filled up."""
        if self._fills_last:
            return {min(self.batch_size, len(self.lengths))}
        return {min(self.batch_size, len(self.lengths)), len(self.lengths) % self.batch_size or self.batch_size}

    @property
    def max_frames(self) -> int:
        """Padded length of the longest clip, in frames."""
        return max(self.lengths) if self._length_buckets is None else self._length_buckets[-1]

    def _padded_length(self, clips: Sequence[int]) -> int:
        """Frames that these clips are padded to: the longest of them, or the next length bucket."""
        longest = max((self.lengths[clip] for clip in clips), default=0)
        return longest if self._length_buckets is None else next(n for n in self._length_buckets if n >= longest)


def uses_length_buckets(device: torch.device) -> bool:
    """Whether batches are padded to few lengths: on a GPU, where each takes a graph; on a CPU it only costs time."""
    return device.type == "cuda"


def _clip_source(
    clips: Sequence[ClipFiles], hparams: Hyperparameters, device: torch.device, caches_clips: bool
) -> ClipSource:
    """Clips cached on the device; or, for a GPU, in the machine's memory if they fit; or read from disk."""
    cpu = torch.device("cpu")
    if caches_clips:
        return ClipsInMemory(clips, hparams, device)
    if device.type != "cpu" and clips_fit(clips, hparams, cpu):
        return ClipsInMemory(clips, hparams, cpu)
    return ClipsOnDisk(clips, hparams)
