"""Events and metrics of a job."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from rvc_train.schemas.base import ResponseModel


class EventType(StrEnum):
    """Everything that can be told about a job."""

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
    """One thing that happened to a job."""

    seq: int
    """1, 2, 3... per job, without a gap."""
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
    """The newest event the job has; ask again with `after` set to the last one received."""


class MetricSeries(ResponseModel):
    """One metric over the training steps."""

    key: str
    steps: list[int]
    values: list[float | None]
    """None where the number was not finite."""
    num_points: int
    """How many the book holds; more than `steps` has when the series was thinned."""


class MetricList(ResponseModel):
    """Series by key."""

    data: list[MetricSeries]
