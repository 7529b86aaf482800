"""Metrics and progress of a training, sent as events; losses are checked for NaN and infinity."""

import math

import torch

from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.compute.precision import MIN_LOSS_SCALE, Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Metric
from rvc_engine.reporting import StageReport
from rvc_engine.training.metrics import AsyncMetricReader
from rvc_engine.training.schedule import MIN_TIMED_STEPS
from rvc_engine.training.step import StepResult
from rvc_engine.training.throughput import Throughput

MAX_UNKNOWN = 0.99
"""Largest share of the work reported as done while its end is not known."""


class NotFinite(Exception):
    """A loss is NaN or infinite."""


class ProgressReporter:
    """Reporter of one run. Every rank checks the losses; only rank 0's `report` sends events."""

    def __init__(
        self, config: TrainingConfig, device: torch.device, precision: Precision, world_size: int, report: StageReport
    ) -> None:
        self._config, self._report = config, report
        self.reader = AsyncMetricReader[tuple[TrainProgress, float]](device, is_blocking=world_size > 1)
        self.throughput = Throughput(device, precision, world_size)
        self.earliest_end: int | None = None
        """With total_epochs=auto, the step at which training ends if no save from now on is better."""
        self._first: tuple[int, float, float] | None = None
        """Saves that were due, training time and time of steps at the attempt's first report."""
        self._num_saved = 0
        """Saves that were due at the last report: the time of a later one is not counted yet."""

    def report_metrics(self, state: GanTrainState, *, waits: bool = False) -> None:
        """Send the metrics that `reader` has read, or with `waits` all submitted ones. Raises NotFinite."""
        for (progress, learning_rate), read in self.reader.flush() if waits else self.reader.poll():
            values = finite_values(read, progress.step, state)
            values |= {"learning_rate": learning_rate, **self.throughput.metrics}
            self._report.event(Metric(step=progress.step, epoch=progress.epoch, values=values))

    def report_progress(self, progress: TrainProgress, total_steps: int) -> None:
        """Send the progress and the estimated time left. Raises StopRequested when the run was asked to stop."""
        done, total, eta = self._completion(progress, total_steps)
        self._report.progress(
            done,
            total,
            eta_seconds=eta,
            epoch=min(progress.last_epoch, self._config.epoch_limit),
            total_epochs=self._config.epoch_limit,
            step=progress.step,
            total_steps=total_steps,
            step_seconds=self.throughput.step_seconds,
            clips_per_second=self.throughput.clips_per_second,
            machine_share=self.throughput.mfu,
        )

    def _completion(self, progress: TrainProgress, total_steps: int) -> tuple[float, float, float | None]:
        """Work done, total work and seconds left, by steps or by the clock, whichever is nearer to the end.

        With total_epochs=auto the work is that until the earliest end, and the seconds are unknown.
        """
        step, step_seconds, limit = progress.step, self.throughput.step_seconds or 0.0, self._config.max_train_seconds
        if self.earliest_end is not None:
            fraction = max(step / min(self.earliest_end, total_steps), progress.seconds / (limit or math.inf))
            return min(fraction, MAX_UNKNOWN), 1.0, None
        remaining = (total_steps - step) * step_seconds + self._seconds_of_saves(progress)
        if limit is None:
            return step, total_steps, remaining
        left = max(limit - progress.seconds, (MIN_TIMED_STEPS - step) * step_seconds, 0.0)
        fraction = min(progress.seconds / limit, step / MIN_TIMED_STEPS, 0.999)
        return max(fraction, step / total_steps), 1.0, min(left, remaining)

    def _seconds_of_saves(self, progress: TrainProgress) -> float:
        """Seconds of the saves and evaluations that are left, by those of this attempt; 0 before the first of them."""
        every = min(self._config.save_every_epochs, self._config.evaluate_every_epochs or self._config.epoch_limit)
        done, all_saves = (progress.epoch - 1) // every, -(-self._config.epoch_limit // every)
        if self._first is None:
            self._first = done, progress.seconds, self.throughput.total_seconds
        first, seconds_before, steps_before = self._first
        counted, self._num_saved = self._num_saved - first, done
        if counted <= 0:
            return 0.0
        beside_steps = (progress.seconds - seconds_before) - (self.throughput.total_seconds - steps_before)
        return max(0.0, beside_steps) / counted * (all_saves - done)


def finite_values(read: list[float], step: int, state: GanTrainState) -> dict[str, float]:
    """The losses and gradient norms of a step by name. Raises NotFinite when they show that the models are spoiled.

    In float16 a gradient may overflow: that step left the weights alone, the next has a smaller scale, and the values
    that are not finite are left out. Many such steps in a row count as spoiled models.
    """
    values = dict(zip(StepResult.NAMES, read, strict=True))
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    scale = state.min_loss_scale if wrong else None
    if wrong and (scale is None or scale < MIN_LOSS_SCALE):
        raise NotFinite(f"{', '.join(wrong)} at step {step}")
    return {name: value for name, value in values.items() if name not in wrong}
