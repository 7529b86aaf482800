"""Schemas of a job's events and metrics."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from rvc_train.schemas.base import ResponseModel


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


class EventList(ResponseModel):
    """Events in order, oldest first."""

    data: list[EventPublic]
    has_more: bool
    last_seq: int
    """Number of the job's newest event; continue with `after` set to the last one received."""


class MetricSeries(ResponseModel):
    """One metric over the training steps."""

    key: str
    steps: list[int]
    values: list[float | None]
    """Values at the steps; null for a number that was not finite."""
    num_points: int
    """Number of stored points; more than in `steps` when the series was thinned."""


class MetricList(ResponseModel):
    """Series by key."""

    data: list[MetricSeries]
