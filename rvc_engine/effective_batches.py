"""The batches of a training: how many clips a step takes, in which order, and which of them are this rank's."""

import math
from collections.abc import Iterator, Sequence

import torch

from rvc_engine.batch_sizing import auto_batch_size, clips_bytes, clips_fit
from rvc_engine.checkpoint import Place
from rvc_engine.config import TrainingConfig
from rvc_engine.dataset import ClipFiles, ClipLoader, epoch_batches
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.micro_batches import MicroBatches
from rvc_engine.ranks import Ranks
from rvc_engine.reporting import StageReport
from rvc_engine.step import Batch, Nets


class EffectiveBatches:
    """Planned once for all ranks, so that each clip comes exactly once an epoch, whoever takes it."""

    def __init__(
        self,
        clips: Sequence[ClipFiles],
        sizes: Hyperparameters,
        config: TrainingConfig,
        per_pass: int,
        keeps_clips: bool,
        device: torch.device,
        ranks: Ranks,
        report: StageReport,
    ) -> None:
        """`per_pass` clips go through the nets at once, on each rank; `keeps_clips`: all stay on the device."""
        self.per_pass, self.lengths, self._seed, self._ranks = per_pass, [c.frames for c in clips], config.seed, ranks
        self.size = per_pass * config.accumulate_steps * ranks.size
        """Clips a step."""
        self.per_epoch = math.ceil(len(clips) / self.size)
        """Steps an epoch."""
        self.micro_batches = MicroBatches(per_pass, ranks, report.warn)
        self._loader = ClipLoader(clips, sizes, device, keeps_clips)
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
        keeps_clips = config.cache_data_on_device
        if keeps_clips and ranks.any(not clips_fit(clips, sizes, device)):
            keeps_clips = False
            report.warn(
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
        return cls(clips, sizes, config, per_pass, keeps_clips, device, ranks, report)

    def __str__(self) -> str:
        return f"{len(self.lengths)} clips in batches of {self.size}{self._parts}: {self.per_epoch} steps an epoch"

    def of_epoch(self, epoch: int, first: int) -> Iterator[tuple[list[int], Batch | None]]:
        """From the `first` batch on: the numbers of its clips, and of those that are this rank's the clips themselves.

        None where it has none, as may be in an epoch's last batch.
        """
        plan = epoch_batches(self.lengths, self.size, self._seed, epoch)[first:]
        shares = [clips[self._ranks.share_of(clips)] for clips in plan]
        yield from zip(plan, self._loader.batches(shares), strict=True)
