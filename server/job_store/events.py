"""Aggregation of engine events into event rows, metrics, and columns of the job. Pure.

Within one batch only the newest progress and the newest values become events (they come up to twice a second, for
hours); every value becomes a metric. Log lines are kept only in the job's log.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rvc_engine import events as engine_events
from rvc_engine.event_text import ending_text, evaluation_text, quality_text
from rvc_train.schemas.events import EventType

_ALWAYS = frozenset({"stage", "progress", "eta_seconds"})
"""Columns that each progress event sets. The others belong to training, and later stages leave them unchanged."""


@dataclass(frozen=True)
class NewEvent:
    """An event without its number and time."""

    type: EventType
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    level: engine_events.Level = "info"


@dataclass
class EventBatch:
    """The aggregate of a batch of engine events."""

    events: list[NewEvent] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of the job's row to set."""
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float | None] = field(default_factory=dict)
    """(key, step) to value; None where it was not finite."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each stage that has ended."""
    num_warnings: int = 0
    evaluations: list[engine_events.Evaluated] = field(default_factory=list)
    quality: list[engine_events.QualityScored] = field(default_factory=list)


def aggregate(events: Sequence[engine_events.Event]) -> EventBatch:
    """Aggregate a batch. Previews, artifacts and the end are left out: the worker reports them separately."""
    result = EventBatch()
    last_progress = max((i for i, event in enumerate(events) if isinstance(event, engine_events.Progress)), default=-1)
    last_metric = max((i for i, event in enumerate(events) if isinstance(event, engine_events.Metric)), default=-1)
    for i, event in enumerate(events):
        match event:
            case engine_events.StageChanged():
                _stage(result, event)
            case engine_events.Progress():
                _progress(result, event, is_reported=i == last_progress)
            case engine_events.Metric():
                _metric(result, event, is_reported=i == last_metric)
            case engine_events.Warned():
                result.num_warnings += 1
                result.events.append(NewEvent(EventType.WARNING, event.message, {"stage": event.stage}, "warning"))
            case engine_events.CheckpointSaved():
                data = {"step": event.step, "epoch": event.epoch}
                result.columns["step"] = event.step  # no progress event follows the last checkpoint before a stop
                result.events.append(NewEvent(EventType.CHECKPOINT_SAVED, f"checkpoint at step {event.step}", data))
            case engine_events.Evaluated():
                _evaluation(result, event)
            case engine_events.TrainingEnded():
                data = event.model_dump(exclude={"type", "time"})
                result.columns["training_end"] = data
                result.events.append(NewEvent(EventType.TRAINING_ENDED, ending_text(event), data))
            case engine_events.QualityScored():
                result.quality.append(event)
                data = event.model_dump(exclude={"type", "time"})
                result.events.append(NewEvent(EventType.QUALITY_SCORED, quality_text(event), data))
            case _:
                pass
    return result


def _stage(result: EventBatch, event: engine_events.StageChanged) -> None:
    seconds = _finite(event.seconds)
    data = {"stage": event.stage, "state": event.state, "seconds": seconds}
    took = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
    result.events.append(NewEvent(EventType.STAGE_CHANGED, f"{event.stage} {event.state}{took}", data))
    if event.state == "finished" and seconds is not None:
        result.stage_seconds[event.stage] = seconds
    if event.state != "skipped":
        result.columns["stage"] = event.stage


def _progress(result: EventBatch, event: engine_events.Progress, *, is_reported: bool) -> None:
    numbers = event.model_dump(exclude={"type", "time"})
    stage_progress = numbers.pop("stage_progress")
    throughput = {key: _finite(numbers.pop(key)) for key in ("clips_per_second", "machine_share")}
    for key in ("eta_seconds", "step_seconds"):
        numbers[key] = _finite(numbers[key])
    result.columns |= {key: value for key, value in numbers.items() if key in _ALWAYS or value is not None}
    if is_reported:
        message = f"{event.stage} {stage_progress:.0%}"
        result.events.append(
            NewEvent(EventType.PROGRESS, message, {**numbers, **throughput, "stage_progress": stage_progress})
        )


def _metric(result: EventBatch, event: engine_events.Metric, *, is_reported: bool) -> None:
    finite = {key: value for key, value in event.values.items() if math.isfinite(value)}
    result.losses |= finite
    result.metrics |= {(key, event.step): finite.get(key) for key in event.values}
    if is_reported:
        values = {key: finite.get(key) for key in event.values}
        data = {"step": event.step, "epoch": event.epoch, "values": values}
        result.events.append(NewEvent(EventType.METRIC, f"step {event.step}", data))


def _evaluation(result: EventBatch, event: engine_events.Evaluated) -> None:
    """Add an evaluation; its values become metrics too, for curves over the steps."""
    result.evaluations.append(event)
    result.losses |= event.values
    result.metrics |= {(key, event.step): value for key, value in event.values.items()}
    data = event.model_dump(exclude={"type", "time"})
    result.events.append(NewEvent(EventType.EVALUATED, evaluation_text(event), data))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
