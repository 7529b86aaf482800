"""The batches of a training: how many clips a step takes, in which order, and which of them are this rank's."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rvc_engine.checkpoints.train_state import Nets, Place
from rvc_engine.compute.process_group import Ranks
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles, epoch_batches
from rvc_engine.data.loader import (
    ClipLoader,
    ClipsInMemory,
    ClipsOnDisk,
    ClipSource,
    Planned,
    numbers_on,
    padded_lengths,
)
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.training.auto_batch import auto_batch_size, clips_bytes, clips_fit
from rvc_engine.training.micro_batches import MicroBatches


@dataclass(frozen=True)
class EffectiveBatch:
    """What one step learns from, over all ranks."""

    clips: Sequence[int]
    """Their numbers."""
    num_frames: int
    """Of all clips, without padding."""
    frames: int
    """What the longest of them is padded to: random numbers are drawn for so many."""
    lengths: Tensor
    """(clips,), frames, on the device."""
    batch: Batch | None
    """This rank's share; None where it has none, as may be in an epoch's last batch."""


class EffectiveBatches:
    """Planned once for all ranks, so that each clip comes exactly once an epoch, whoever takes it."""

    def __init__(
        self,
        clips: Sequence[ClipFiles],
        sizes: Hyperparameters,
        config: TrainingConfig,
        per_pass: int,
        source: ClipSource,
        device: torch.device,
        ranks: Ranks,
        report: StageReport,
    ) -> None:
        """`per_pass` clips go through the nets at once, on each rank."""
        self.per_pass, self.lengths, self._seed, self._ranks = per_pass, [c.frames for c in clips], config.seed, ranks
        self._device = device
        self._padded_lengths = padded_lengths(self.lengths) if pads_to_few_lengths(device) else None
        self.size = per_pass * config.accumulate_steps * ranks.size
        """Clips a step."""
        self.per_epoch = math.ceil(len(clips) / self.size)
        """Steps an epoch."""
        self.micro_batches = MicroBatches(per_pass, ranks, report.warn)
        self._loader = ClipLoader(source, sizes, device)
        parts = [f"{ranks.size} processes"] if ranks.size > 1 else []
        parts += [f"{config.accumulate_steps} micro-batches"] if config.accumulate_steps > 1 else []
        self._parts = f" ({' of '.join([*parts, str(per_pass)])} each)" if parts else ""

    @classmethod
    def choose(
        cls,
        clips: Sequence[ClipFiles],
        nets: Nets,
        config: TrainingConfig,
        place: Place | None,
        ranks: Ranks,
        report: StageReport,
    ) -> "EffectiveBatches":
        """As the config says. batch_size=auto takes what the run began with, or tries it out, which spoils the nets."""
        sizes, device = nets.sizes, nets.device
        keeps_clips = config.cache_data_on_device or device.type == "cuda"
        if keeps_clips and ranks.any(not clips_fit(clips, sizes, device)):
            keeps_clips = False
            tell = report.warn if config.cache_data_on_device else report.log
            tell(
                f"the dataset ({clips_bytes(clips, sizes) / 1e6:.0f} MB) does not fit into the device's memory beside "
                "the training; going on without cache_data_on_device"
            )
        num_groups = config.accumulate_steps * ranks.size
        if config.batch_size != "auto":
            per_pass = config.batch_size
        elif place is not None:
            per_pass = max(1, place.batch_size // num_groups)
        else:
            kept_bytes = clips_bytes(clips, sizes) if keeps_clips else 0
            per_pass = ranks.least(auto_batch_size(nets, clips, num_groups, kept_bytes))
            report.log(f"batch_size=auto: {per_pass} clips at a time")
        source = _source(clips, sizes, device, keeps_clips)
        return cls(clips, sizes, config, per_pass, source, device, ranks, report)

    def __str__(self) -> str:
        return f"{len(self.lengths)} clips in batches of {self.size}{self._parts}: {self.per_epoch} steps an epoch"

    def of_epoch(self, epoch: int, first: int) -> Iterator[EffectiveBatch]:
        """From the `first` batch on."""
        plan = epoch_batches(self.lengths, self.size, self._seed, epoch)[first:]
        shares = [clips[self._ranks.share_of(clips)] for clips in plan]
        batches = self._loader.batches([Planned(share, self._padded(share)) for share in shares])
        lengths = numbers_on(self._device, [[self.lengths[clip] for clip in clips] for clips in plan])
        for clips, of_clips, batch in zip(plan, lengths, batches, strict=True):
            yield EffectiveBatch(clips, sum(self.lengths[clip] for clip in clips), self._padded(clips), of_clips, batch)

    @property
    def sizes(self) -> set[int]:
        """In clips, of all batches of an epoch."""
        return {min(self.size, len(self.lengths)), len(self.lengths) % self.size or self.size}

    @property
    def most_frames(self) -> int:
        """What the longest clip is padded to."""
        return max(self.lengths) if self._padded_lengths is None else self._padded_lengths[-1]

    def _padded(self, clips: Sequence[int]) -> int:
        """What these clips are padded to, in frames: the longest of them, or a little more where lengths are few."""
        longest = max((self.lengths[clip] for clip in clips), default=0)
        return longest if self._padded_lengths is None else next(n for n in self._padded_lengths if n >= longest)


def pads_to_few_lengths(device: torch.device) -> bool:
    """On a GPU, where each length takes a graph of its own; elsewhere padding costs time and gives nothing."""
    return device.type == "cuda"


def _source(clips: Sequence[ClipFiles], sizes: Hyperparameters, device: torch.device, keeps_clips: bool) -> ClipSource:
    """Kept on the device; or for a GPU in the machine's memory, if they fit there; or left on the disk."""
    cpu = torch.device("cpu")
    if keeps_clips:
        return ClipsInMemory(clips, sizes, device)
    if device.type == "cuda" and clips_fit(clips, sizes, cpu):
        return ClipsInMemory(clips, sizes, cpu)
    return ClipsOnDisk(clips, sizes)
