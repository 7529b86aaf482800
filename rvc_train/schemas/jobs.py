"""Schemas of jobs: requests to train a voice, statuses, answers."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, computed_field, model_validator

from rvc_engine.card.provenance import Consent
from rvc_engine.config import TrainingConfig, VoiceName
from rvc_engine.errors import FailureCode
from rvc_engine.events import EndReason
from rvc_train.schemas.base import DEPRECATED, RequestModel, ResponseModel
from rvc_train.schemas.webhooks import WebhookCreate


class JobStatus(StrEnum):
    """Status of a job. `server.job_store.transitions` has the allowed transitions."""

    VALIDATING = "validating"
    """Waiting for its dataset's report, or for weights that are downloaded; see `waiting_for`."""
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
        """Whether no transition is possible."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

LEASED_STATUSES = frozenset({JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
"""Statuses with a worker's lease: the row has a worker and a token."""


MAX_LABELS = 32
LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
"""Text without NUL: PostgreSQL stores one in JSON, and then fails to compare it, for everybody's queries by label."""


JOB_DEFAULTS: dict[str, Any] = {"keep_saves": "best", "num_best_saves": 1}
"""Training options of jobs that differ from the engine's own defaults: a server's disk has the saves of many voices."""


def with_job_defaults(config: TrainingConfig) -> TrainingConfig:
    """The config with `JOB_DEFAULTS` for what was not set; without evaluations only the latest save is kept."""
    defaults = JOB_DEFAULTS | ({"keep_saves": "latest"} if config.evaluate == "never" else {})
    return config.model_copy(update={name: defaults[name] for name in defaults.keys() - config.model_fields_set})


class StartFrom(RequestModel):
    """The save of an earlier job, whose generator and discriminators training begins with in place of base weights."""

    job_id: str | None = Field(default=None, min_length=1, max_length=64)
    """Id of the job."""
    voice: VoiceName | None = None
    """Name of a voice, in place of a job: its newest job that succeeded and whose saves are on the server."""
    save: Annotated[int, Field(ge=0, lt=10**9)] | Literal["best"] | None = None
    """Number of the save, as in its file's name `G_<number>.pth`; best: the best one by evaluation; null: the last."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.job_id is None) == (self.voice is None):
            raise ValueError("give either job_id or voice")
        return self


class StartedFrom(ResponseModel):
    """The save of an earlier job that a job begins with."""

    job_id: str
    """The job, which may have been deleted since."""
    voice: str
    save: int


class Resources(RequestModel):
    """Requirements on the worker that runs a job. What is left out is filled in from the training options."""

    gpus: int | None = Field(default=None, ge=0, le=64)
    """Least number of GPUs that the worker trains on; 0: its CPU will do. Default: 1 with `gpu_memory_bytes`, 0
    without."""
    gpu_memory_bytes: int | None = Field(default=None, ge=0, lt=2**50)
    """Least memory of each of the worker's GPUs. Default: that of the networks and their optimizers."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MAX_LABELS)
    """Labels that the worker must have, as given to it with `rvc-train worker --label`."""


class JobResources(ResponseModel):
    """Requirements on the worker that runs a job."""

    gpus: int = 0
    """Least number of GPUs; 0: the CPU of a worker without GPUs will do."""
    gpu_memory_bytes: int | None = None
    """Least memory of each of the worker's GPUs, if it has any; null: any."""
    labels: dict[str, str] = {}
    """Labels that the worker must have."""


class JobCreate(RequestModel):
    """Request to submit a job."""

    name: VoiceName
    """Name of the voice; the stem of its files."""
    dataset_id: str = Field(min_length=1, max_length=64)
    """Id of the dataset to train on."""
    config: TrainingConfig = TrainingConfig()
    """Training options; all have defaults."""
    start_from: StartFrom | None = None
    """Go on from the voice of an earlier job, with the same recordings or others. It must be of the same version,
    sample rate, pitch and width."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Jobs with a higher priority run first. Among those of equal priority the owner with the least running and recent
    GPU time goes first, with their oldest job."""
    resources: Resources = Resources()
    """Requirements on the worker that runs the job."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MAX_LABELS)
    """Labels for finding the job."""
    max_attempts: int = Field(default=2, ge=1, le=10)
    """Number of attempts that may fail with a retryable error before the job fails."""
    max_duration_seconds: float | None = Field(default=None, ge=1, le=90 * 86_400)
    """Longest duration of one attempt; null: no limit."""
    webhook: WebhookCreate | None = None
    """Webhook for this job only."""
    fetch_weights: bool = False
    """Download published weights that the job needs and the server lacks; the job is `validating` meanwhile. Without
    it, a job whose weights are missing fails with `missing_weights`."""


class JobPatch(RequestModel):
    """Changes of a job; omitted fields stay."""

    labels: dict[LabelKey, LabelValue | None] | None = Field(default=None, max_length=2 * MAX_LABELS)
    """Labels to set; null removes one. Possible at any time."""
    priority: int | None = Field(default=None, ge=-100, le=100)
    """Possible only while the job is queued."""


RetryFrom = Literal["checkpoint", "start"]


class JobRetry(RequestModel):
    """Request to retry a job as a new one, with the same fields except those given here."""

    start_from: RetryFrom = Field(default="checkpoint", alias="from")
    """checkpoint: continue from the job's last one. start: train from the start, reusing the prepared recordings."""
    config: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """Training options to change. From a checkpoint, options that affect the model's shape or the clips must stay."""
    fetch_weights: bool | None = None
    """As for a new job; null: as for the job that is retried."""


class Range(ResponseModel):
    """Estimated range of a number."""

    low: float
    high: float
    likely: float | None = None
    """For a time the likeliest one, which nine of ten times lies between half and double; null for other numbers."""


class JobError(ResponseModel):
    """Error of a failed job; the message has the reason and what to do."""

    code: FailureCode | str
    message: str
    retryable: bool


class Forecast(ResponseModel):
    """Estimated start and end of a job."""

    starts_in: Range | None = Field(default=None, json_schema_extra=DEPRECATED)
    """`starts_in_seconds` under its old name."""
    eta: Range | None = Field(default=None, json_schema_extra=DEPRECATED)
    """`ends_in_seconds` under its old name."""

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def starts_in_seconds(self) -> Range | None:
        """Seconds until a worker claims it; null unless queued, and while no worker is alive."""
        return self.starts_in

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def ends_in_seconds(self) -> Range | None:
        """Seconds until its end, waiting included; null for a finished job, and while unknown."""
        return self.eta


class TrainingEnd(ResponseModel):
    """End of a training with `total_epochs=auto`, whose voice is the best save."""

    reason: EndReason
    """no_better_save: saves no longer improved, by `stop_share`. The others: that limit was reached."""
    step: int
    epoch: int
    best_step: int | None
    """Step of the best save; null where no save was evaluated, and the voice is the last one."""
    best_epoch: int | None


class JobPublic(Forecast):
    """Job."""

    id: str
    owner: str
    name: str
    dataset_id: str
    dataset_deleted: bool = False
    """Whether its recordings were deleted, so that it can be neither retried nor continued."""
    status: JobStatus
    stage: str | None
    """slice, pitch, content, train, index or export; null before the first."""
    progress: float
    """Share of the expected time that has passed, over all stages, 0..1; it never decreases."""
    eta_seconds: float | None
    epoch: int | None
    total_epochs: int | None
    """With `total_epochs=auto` the most, `max_epochs`; `total_steps` likewise."""
    step: int | None
    total_steps: int | None
    training_end: TrainingEnd | None = None
    """End of a training with `total_epochs=auto`; null before, and for a fixed number of epochs."""
    step_seconds: float | None
    losses: dict[str, float]
    """Newest value of each metric, by key."""
    queue_position: int | None
    """Last position in the queue that it can have: 1 for the next job; null unless queued. Where several owners wait,
    it often starts earlier."""
    resources: JobResources = JobResources()
    """Requirements on its worker."""
    lacking: list[str] = []
    """Reasons why none of the present workers could ever take it; empty unless queued."""
    error: JobError | None
    created_at: datetime
    queued_at: datetime | None = None
    """Time of its last entry into the queue."""
    updated_at: datetime | None = None
    """Time of its newest event."""
    started_at: datetime | None
    """Time of the first claim by a worker."""
    finished_at: datetime | None
    attempt: int
    """Number of the current or last attempt, counting pauses and restarts too; 0 before the first."""
    failures: int = 0
    """Number of attempts that failed; only these count towards `max_attempts`."""
    max_attempts: int
    max_duration_seconds: float | None
    config: dict[str, Any]
    """Training options at submission: a job of another version may lack some, or have others."""
    labels: dict[str, str]
    priority: int
    fetch_weights: bool = False
    waiting_for: list[Literal["dataset", "weights"]] = []
    """Reasons why a job is still `validating`; empty in every other status."""
    weights_progress: float | None = None
    """Share of the weights that it waits for that is downloaded, 0..1; null unless it waits for weights."""
    retry_of: str | None = None
    """Id of the job that this one retries, which may have been deleted."""
    retry_from: RetryFrom | None = None
    start_from: StartedFrom | None = None
    """The save of an earlier job that its training begins with; null for base weights, or none."""
    consent: Consent | None = None
    """Consent of the speaker as the dataset had it when the job was submitted; null without one."""
    num_artifacts: int
    disk_bytes: int = 0
    """Bytes of its files on disk, checkpoints and log included, as last measured."""
    num_warnings: int
    last_event_seq: int
    worker_id: str | None
    content_notice: str | None
    """Notice for a voice that RVC and Applio load but do not convert correctly."""


class JobList(ResponseModel):
    """Page of a list of jobs."""

    data: list[JobPublic]
    has_more: bool = False
    next_cursor: str | None = None
    """Value of `after` for the next page; null on the last one. Opaque."""
    counts: dict[JobStatus, int] | None = Field(default=None, exclude_if=lambda counts: counts is None)
    """With `counts`: number of jobs by status that match the other filters, whatever the status asked for."""
