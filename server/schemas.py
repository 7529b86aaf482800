"""Wire shapes: what travels over HTTP, both ways. Imports neither FastAPI nor SQLModel, for the client uses it too.

Requests are strict and forbid unknown fields; answers ignore fields that a newer server may add.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from rvc_engine.config import TrainingConfig, VoiceName
from rvc_engine.errors import FailureCode
from server.webhook_schemas import WebhookCreate
from server.wire import Answer, Request

T = TypeVar("T")

CONTENT_NOTICE = (
    "This voice is trained with the content encoder {encoder}. {note}. Use content=contentvec for a voice that "
    "converts in RVC and Applio."
)


class JobStatus(StrEnum):
    """Where a job stands. What may follow what is in `server.states`."""

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


class DatasetStatus(StrEnum):
    """Where a dataset stands."""

    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"


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


MAX_LABELS = 32
LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, Field(max_length=255)]


class DatasetCreate(Request):
    """A dataset of an upload that has come whole, or of bytes that the server has already. Exactly one of the two."""

    name: str = Field(max_length=200)
    """What the dataset is called."""
    upload_id: str | None = Field(default=None, max_length=64)
    """The upload's id, the end of its `Location`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the zip or the recording, as it was uploaded before."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.upload_id is None) == (self.sha256 is None):
            raise ValueError("give either upload_id or sha256")
        return self


class JobCreate(Request):
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


class JobPatch(Request):
    """What to change of a job; what is left out stays."""

    labels: dict[LabelKey, LabelValue | None] | None = Field(default=None, max_length=2 * MAX_LABELS)
    """Labels to set; null takes one away. Possible at any time."""
    priority: int | None = Field(default=None, ge=-100, le=100)
    """Possible only while the job is queued."""


RetryFrom = Literal["checkpoint", "start"]


class JobRetry(Request):
    """A job once more: a new one, with the same wishes but for what is given here."""

    start_from: RetryFrom = Field(default="checkpoint", alias="from")
    """checkpoint: go on from the last one of the job. start: train anew; prepared recordings are not prepared again."""
    config: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """Training options to change. From a checkpoint, those that the nets' shape or the clips depend on must stay."""


class Range(Answer):
    """Between what and what a number will be, as far as can be told."""

    low: float
    high: float


class JobError(Answer):
    """Why a job failed, and what to do."""

    code: FailureCode | str
    message: str
    retryable: bool


class JobPublic(Answer):
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


class DatasetPublic(Answer):
    """A dataset as everyone sees it."""

    id: str
    owner: str
    name: str
    status: DatasetStatus
    reason: str | None
    """Why it is invalid, in a sentence."""
    sha256: str
    """Of the uploaded bytes."""
    size: int
    """Bytes uploaded."""
    num_files: int
    num_usable: int | None
    seconds: float | None
    """Length of all usable recordings together; None until the report is there."""
    notes: list[str]
    """What was left out at admission, and why."""
    created_at: datetime
    validated_at: datetime | None


class EventPublic(Answer):
    """One thing that happened to a job."""

    seq: int
    """1, 2, 3... per job, without a gap."""
    type: EventType | str
    level: Literal["debug", "info", "warning", "error"]
    message: str
    data: dict[str, Any]
    attempt: int
    created_at: datetime


class EventList(Answer):
    """Events in order, oldest first."""

    data: list[EventPublic]
    has_more: bool
    last_seq: int
    """The newest event the job has; ask again with `after` set to the last one received."""


class MetricSeries(Answer):
    """One metric over the training steps."""

    key: str
    steps: list[int]
    values: list[float | None]
    """None where the number was not finite."""
    num_points: int
    """How many the book holds; more than `steps` has when the series was thinned."""


class MetricList(Answer):
    """Series by key."""

    data: list[MetricSeries]


class ArtifactPublic(Answer):
    """A file that a job offers."""

    id: str
    kind: str
    name: str
    size: int
    sha256: str
    created_at: datetime
    url: str
    """Path of the file on this server."""
    content_notice: str | None


class ArtifactList(Answer):
    """All files of a job."""

    data: list[ArtifactPublic]


class GpuPublic(Answer):
    """What a GPU is doing, with whatever else runs on it."""

    name: str
    use: float | None = None
    """0..1: share of the last moment in which it computed; None where its driver cannot tell."""
    memory_used_bytes: int
    memory_total_bytes: int


class WorkerPublic(Answer):
    """A process that runs jobs."""

    id: str
    name: str
    host: str
    pid: int
    device: str
    """Where its engines run, such as `cuda:1`."""
    device_name: str | None = None
    """What that is, such as `NVIDIA H100 80GB HBM3`."""
    version: str | None = None
    """Of rvc-train, as the worker has it."""
    drain_mode: Literal["hand_back", "finish"] | None = None
    """What becomes of its job while it is draining."""
    status: Literal["idle", "busy", "draining", "lost", "stopped"]
    job_id: str | None
    registered_at: datetime
    last_seen_at: datetime
    gpus: list[GpuPublic] = []
    """Its GPUs as they were a moment ago; none on a CPU, and where the worker is gone."""


class WorkerList(Answer):
    """All workers that registered in the last day."""

    data: list[WorkerPublic]


class QueueEntry(Answer):
    """A job that waits or runs."""

    id: str
    name: str
    status: JobStatus
    priority: int
    queue_position: int | None
    progress: float
    eta_seconds: float | None
    starts_in: Range | None = None
    eta: Range | None = None
    """As of the job itself."""


class QueuePublic(Answer):
    """What runs and what waits."""

    running: list[QueueEntry]
    queued: list[QueueEntry]
    """The first hundred."""
    num_queued: int
    num_validating: int
    num_workers: int
    """Workers that are alive."""


class EstimateRequest(JobCreate):
    """A job as it would be submitted; the name may be left out."""

    name: VoiceName = "voice"


class JobEstimate(Answer):
    """What a job would take. A range says between what; None: it cannot be told yet."""

    dataset_status: DatasetStatus
    speech_seconds: float | None
    """Of sound to learn from; None while the dataset's report is not there."""
    num_clips: Range | None
    steps: Range | None
    """Over all epochs, or until max_train_seconds are over."""
    seconds: Range | None
    """From its start to its end, without waiting."""
    starts_in: Range | None
    """Seconds that it would wait in the queue; None while no worker lives."""
    disk_bytes: Range | None
    """In the data folder, at the most full moment."""
    gpu_memory_bytes: Range
    """Always a rule of thumb; on a CPU it is main memory."""
    basis: Literal["measured", "scaled", "guess"]
    """What the time of a step comes from: attempts with this very setting on this kind of device; attempts with another
    setting; or a rule of thumb, as nothing was measured yet."""
    basis_detail: str
    """In a sentence."""
    warnings: list[str]


class Limits(Answer):
    """What the server takes."""

    max_upload_bytes: int
    max_files: int
    max_unpacked_bytes: int
    max_file_bytes: int


class SystemPublic(Answer):
    """What this server is and what it can do."""

    name: str
    version: str
    python: str
    database: str
    database_version: str
    limits: Limits
    audio_suffixes: list[str]
    disk_free_bytes: int
    disk_total_bytes: int
    num_cores: int
    memory_total_bytes: int
    needs_token: bool
    warnings: list[str]


class Page(Answer, Generic[T]):
    """A piece of a list."""

    # pydantic looks for docstrings in the source around each `Page[...]`, and stumbles over it.
    model_config = ConfigDict(use_attribute_docstrings=False)

    data: list[T]
    has_more: bool
    next_cursor: str | None


class ProblemDetail(Answer):
    """One thing wrong with a request."""

    detail: str
    pointer: str
    """JSON pointer into the body, or `?name` for a query parameter."""


class Problem(Answer):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[ProblemDetail] = []


class Health(Answer):
    """Whether the server lives, and what is wrong when it is not ready."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
