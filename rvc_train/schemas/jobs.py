"""Jobs: requests to train a voice, their statuses, and how they are shown."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from rvc_engine.config import TrainingConfig, VoiceName
from rvc_engine.errors import FailureCode
from rvc_train.schemas.base import RequestModel, ResponseModel
from rvc_train.schemas.webhooks import WebhookCreate


class JobStatus(StrEnum):
    """Where a job stands. What may follow what is in `server.job_store.transitions`."""

    VALIDATING = "validating"
    """Waits for its dataset's report."""
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

LEASED_STATUSES = frozenset({JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
"""A worker has a lease on the job: the row has a worker and a token."""


MAX_LABELS = 32
LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, Field(max_length=255)]


class JobCreate(RequestModel):
    """A wish to make a voice."""

    name: VoiceName
    """The voice's name; the stem of its files."""
    dataset_id: str = Field(max_length=64)
    """Recordings to learn from, as `PUT /v1/datasets/{name}/content` answered."""
    config: TrainingConfig = TrainingConfig()
    """Every choice about the training; all of them have defaults."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Higher goes first; jobs of equal priority go in the order of their submission."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MAX_LABELS)
    """Free words for finding the job again."""
    max_attempts: int = Field(default=2, ge=1, le=10)
    """How many times a run may fail, where another try can help, before the job has failed."""
    max_duration_seconds: float | None = Field(default=None, ge=1, le=90 * 86_400)
    """Seconds a single attempt may take. None: no limit."""
    webhook: WebhookCreate | None = None
    """Someone to tell of this job alone."""


class JobPatch(RequestModel):
    """What to change of a job; what is left out stays."""

    labels: dict[LabelKey, LabelValue | None] | None = Field(default=None, max_length=2 * MAX_LABELS)
    """Labels to set; null takes one away. Possible at any time."""
    priority: int | None = Field(default=None, ge=-100, le=100)
    """Possible only while the job is queued."""


RetryFrom = Literal["checkpoint", "start"]


class JobRetry(RequestModel):
    """A job once more: a new one, with the same wishes but for what is given here."""

    start_from: RetryFrom = Field(default="checkpoint", alias="from")
    """checkpoint: go on from the last one of the job. start: train anew; prepared recordings are not prepared again."""
    config: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """Training options to change. From a checkpoint, those that the nets' shape or the clips depend on must stay."""


class Range(ResponseModel):
    """Between what and what a number will be, as far as can be told."""

    low: float
    high: float


class JobError(ResponseModel):
    """Why a job failed, and what to do."""

    code: FailureCode | str
    message: str
    retryable: bool


class JobPublic(ResponseModel):
    """A job as everyone sees it."""

    id: str
    owner: str
    name: str
    dataset_id: str
    status: JobStatus
    stage: str | None
    """slice, pitch, content, train, index or export; None before the first."""
    progress: float
    """0..1 over all stages."""
    eta_seconds: float | None
    epoch: int | None
    total_epochs: int | None
    step: int | None
    total_steps: int | None
    step_seconds: float | None
    losses: dict[str, float]
    """The newest value of each metric, by its key."""
    queue_position: int | None
    """1 is next; None unless queued."""
    starts_in: Range | None = None
    """Seconds until a worker takes it; None unless queued, and while no worker lives."""
    eta: Range | None = None
    """Seconds until its end, waiting included; None at its end, and while nothing can be told."""
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    """When a worker first took it."""
    finished_at: datetime | None
    attempt: int
    """Number of the present or last attempt; 0 before the first."""
    max_attempts: int
    max_duration_seconds: float | None
    config: dict[str, Any]
    """Every choice about the training, as it was made: a job of another version may lack some, or have others."""
    labels: dict[str, str]
    priority: int
    retry_of: str | None = None
    """The job that this one tries again; it may be deleted since."""
    retry_from: RetryFrom | None = None
    num_artifacts: int
    num_warnings: int
    last_event_seq: int
    worker_id: str | None
    content_notice: str | None
    """Said of a voice that RVC and Applio load but do not convert with correctly."""
