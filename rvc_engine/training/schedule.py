"""Schedule of metrics, checkpoints and the end of training, and the learning rate of each epoch."""

import time
from dataclasses import dataclass

import torch

from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.checkpoints.train_state import TrainProgress
from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.evaluation.runner import EvaluationRunner

MIN_TIMED_STEPS = 8
"""`max_train_seconds` does not end training before so many steps."""
CHECKPOINT_SECONDS = 300
MAX_CHECKPOINT_TIME_FRACTION = 0.03
"""Share of the time that saving checkpoints may take."""
SECONDS_BETWEEN_METRICS = 0.2


@dataclass(frozen=True)
class DueActions:
    """Actions due after a step, reduced over all ranks, since each may see another clock or signal."""

    stop: bool
    """The run was asked to stop."""
    end: bool
    """`max_train_seconds` is reached."""
    metrics: bool
    checkpoint: bool


class Schedule:
    """The schedule of one run, by rank 0's clock."""

    def __init__(
        self, config: TrainingConfig, device: torch.device, store: RecoveryStore, distributed: DistributedContext
    ) -> None:
        self._config, self._device, self._store, self._distributed = config, device, store, distributed
        self._last_metrics = 0.0
        self._last_checkpoint = time.monotonic()

    def learning_rate(self, progress: TrainProgress) -> float:
        """The learning rate of the epoch that the next batch belongs to."""
        decay = self._config.lr_decay ** (progress.epoch - 1)
        return self._config.learning_rate * progress.learning_rate_scale * decay

    def is_time_up(self, progress: TrainProgress) -> bool:
        """Whether `max_train_seconds` ends the training here."""
        limit = self._config.max_train_seconds
        return limit is not None and progress.seconds >= limit and progress.step >= MIN_TIMED_STEPS

    def is_evaluation_due(self, epoch: int, step: int, evaluation: EvaluationRunner | None) -> bool:
        """Whether to evaluate after an epoch without a save. All ranks must call this; `evaluation` is rank 0's."""
        every = self._config.evaluate_every_epochs
        if every and epoch % every == 0:
            return True
        is_due = evaluation is not None and evaluation.is_due(step)
        return self._config.total_epochs == "auto" and self._distributed.all_reduce_any(is_due)

    def has_converged(self, evaluation: EvaluationRunner | None) -> bool:
        """Whether total_epochs=auto ends the training here. All ranks must call this; `evaluation` is rank 0's."""
        if self._config.total_epochs != "auto":
            return False
        return self._distributed.all_reduce_any(evaluation is not None and evaluation.has_converged())

    def start_checkpoint_interval(self) -> None:
        """Count the seconds until the next checkpoint from now."""
        self._last_checkpoint = time.monotonic()

    def due_actions(self, progress: TrainProgress, *, is_stopping: bool) -> DueActions:
        """The actions due by rank 0's clock, or by a stop request on any rank.

        All ranks must call this after each step. Metrics count as read when they are due.
        """
        flags = self.is_time_up(progress), self._are_metrics_due(progress), self._is_checkpoint_due(progress)
        is_main = self._distributed.is_main
        due = DueActions(*self._distributed.all_reduce_flags([is_stopping, *(is_main and flag for flag in flags)]))
        if due.metrics:
            self._last_metrics = time.monotonic()
        return due

    def _are_metrics_due(self, progress: TrainProgress) -> bool:
        """Whether to read the losses: at every step on a CPU, now and then on a GPU, where reading costs time."""
        is_free = self._device.type == "cpu" or progress.step == 1
        return is_free or time.monotonic() - self._last_metrics >= SECONDS_BETWEEN_METRICS

    def _is_checkpoint_due(self, progress: TrainProgress) -> bool:
        every = self._config.checkpoint_every_steps
        if every is not None:
            return progress.step % every == 0
        wait = max(CHECKPOINT_SECONDS, self._store.last_save_seconds / MAX_CHECKPOINT_TIME_FRACTION)
        return time.monotonic() - self._last_checkpoint >= wait
