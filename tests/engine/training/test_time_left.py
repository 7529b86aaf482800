"""Time left of a training, by its steps, saves and evaluations so far."""

from typing import Any

import pytest
import torch

from rvc_engine.checkpoints.train_state import TrainProgress
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Progress
from rvc_engine.reporting import StageReport
from rvc_engine.training.progress import ProgressReporter

STEPS_PER_EPOCH, STEP_SECONDS, SAVE_SECONDS = 5, 2.0, 30.0


def time_left(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[int, float]:
    """Seconds left after each step of a training of 12 epochs, as reported."""
    monkeypatch.setattr("rvc_engine.reporting.SECONDS_BETWEEN_PROGRESS", 0)
    config = TrainingConfig(total_epochs=12, pretrained="none", width=24, **settings)
    events: list[Progress] = []
    cpu = torch.device("cpu")
    reporter = ProgressReporter(config, cpu, Precision("fp32", "cpu"), 1, StageReport("train", events.append))
    seconds = 0.0
    for step in range(1, 12 * STEPS_PER_EPOCH + 1):
        seconds += STEP_SECONDS
        reporter.throughput.add(4, STEP_SECONDS)
        epoch, batch = 1 + step // STEPS_PER_EPOCH, step % STEPS_PER_EPOCH
        progress = TrainProgress(step, epoch, batch, seconds, 4, 20)
        reporter.report_progress(progress, 12 * STEPS_PER_EPOCH)
        if batch == 0 and (epoch - 1) % config.save_every_epochs == 0:
            seconds += SAVE_SECONDS
    return {event.step: event.eta_seconds for event in events}  # type: ignore[misc]


def test_the_time_left_has_the_saves_and_evaluations_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left = time_left(monkeypatch, save_every_epochs=3)
    steps = 12 * STEPS_PER_EPOCH
    assert left[10] == (steps - 10) * STEP_SECONDS, "no save was measured yet"
    assert left[20] == pytest.approx((steps - 20) * STEP_SECONDS + 3 * SAVE_SECONDS)
    assert left[50] == pytest.approx((steps - 50) * STEP_SECONDS + SAVE_SECONDS)
    assert left[steps] == 0


def test_without_saves_in_between_the_time_left_is_that_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_left(monkeypatch, save_every_epochs=50)[20] == 40 * STEP_SECONDS
