"""Schemas of a job's events and metrics."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rvc_engine import events as engine_events
from rvc_engine.errors import FailureCode
from rvc_train.schemas.base import Page, ResponseModel


class EventType(StrEnum):
    """Type of an event."""

    CREATED = "created"
    VALIDATED = "validated"
    QUEUED = "queued"
    STARTED = "started"
    STAGE_CHANGED = "stage_changed"
    PROGRESS = "progress"
    METRIC = "metric"
    WARNING = "warning"
    CHECKPOINT_SAVED = "checkpoint_saved"
    EVALUATED = "evaluated"
    TRAINING_ENDED = "training_ended"
    QUALITY_SCORED = "quality_scored"
    PREVIEW_READY = "preview_ready"
    ARTIFACT_PUBLISHED = "artifact_published"
    PAUSE_REQUESTED = "pause_requested"
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCEL_REQUESTED = "cancel_requested"
    RETRYING = "retrying"
    WORKER_LOST = "worker_lost"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EventPublic(ResponseModel):
    """Event of a job."""

    seq: int
    """Number of the event: 1, 2, 3... per job, without gaps."""
    type: EventType | str
    level: Literal["debug", "info", "warning", "error"]
    message: str
    data: dict[str, Any]
    attempt: int
    created_at: datetime
    job_id: str = ""
    name: str = ""
    """Name of the job's voice."""


class WorkerData(ResponseModel):
    """Worker that lost the job."""

    worker_id: str | None


class AttemptData(WorkerData):
    """Worker of the attempt, and its device, such as `cuda:1`."""

    device: str


class MetricData(ResponseModel):
    """Metrics of a training step."""

    step: int
    epoch: int
    values: dict[str, float | None]
    """By metric; null for a number that was not finite."""


class FailureData(ResponseModel):
    """Failure after which the job is retried or paused; without `code`, it was paused on request."""

    code: FailureCode | None = None


class FinalFailureData(ResponseModel):
    """Failure that ended the job."""

    code: FailureCode
    retryable: bool


EVENT_DATA: dict[EventType, tuple[type[BaseModel], frozenset[str]]] = {
    EventType.STARTED: (AttemptData, frozenset()),
    EventType.STAGE_CHANGED: (engine_events.StageChanged, frozenset()),
    EventType.PROGRESS: (engine_events.Progress, frozenset()),
    EventType.METRIC: (MetricData, frozenset()),
    EventType.WARNING: (engine_events.Warned, frozenset({"message"})),
    EventType.CHECKPOINT_SAVED: (engine_events.CheckpointSaved, frozenset({"path"})),
    EventType.EVALUATED: (engine_events.Evaluated, frozenset()),
    EventType.TRAINING_ENDED: (engine_events.TrainingEnded, frozenset()),
    EventType.QUALITY_SCORED: (engine_events.QualityScored, frozenset()),
    EventType.PREVIEW_READY: (engine_events.PreviewReady, frozenset()),
    EventType.ARTIFACT_PUBLISHED: (engine_events.ArtifactReady, frozenset({"path"})),
    EventType.PAUSED: (FailureData, frozenset()),
    EventType.RETRYING: (FailureData, frozenset()),
    EventType.WORKER_LOST: (WorkerData, frozenset()),
    EventType.FAILED: (FinalFailureData, frozenset()),
}
"""Schema of `data` by type of event, with fields that are left out; without an entry, `data` is empty.

Of the engine's own events, `type` and `time` are left out too, and a number that was not finite is null.
"""


class EventList(Page[EventPublic]):
    """Events in order, oldest first. Their cursors are their numbers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    last_seq: int
    """Number of the job's newest event; continue with `after` set to the last one received."""


class EventFeed(Page[EventPublic]):
    """Events of all jobs in one order, oldest first."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    last_cursor: str
    """Value of `after`, and of `Last-Event-ID`, for what comes after this page, also where nothing has yet."""


class MetricSeries(ResponseModel):
    """One metric over the training steps."""

    key: str
    steps: list[int]
    values: list[float | None]
    """Values at the steps; null for a number that was not finite."""
    num_points: int
    """Number of stored points; more than in `steps` when the series was thinned."""
