"""Schemas of a worker on another machine: registration, heartbeats and claims."""

from typing import Annotated, Any

from pydantic import Field

from rvc_engine.calibration.results import Calibration
from rvc_train.schemas.base import RequestModel, ResponseModel
from rvc_train.schemas.jobs import MAX_LABELS, JobStatus, LabelKey, LabelValue
from rvc_train.schemas.voices.conversions import ConversionOptions
from rvc_train.schemas.work.protocol import MAX_WAIT_SECONDS
from rvc_train.schemas.workers import Drain, GpuPublic, WorkerCommand

Text = Annotated[str, Field(max_length=255)]
LeaseId = Annotated[str, Field(min_length=1, max_length=100)]
Key = Annotated[str, Field(min_length=1, max_length=100)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class WorkServer(ResponseModel):
    """The server as workers see it."""

    instance_id: str
    """Id of the installation."""
    protocol: int
    """Version of the exchange with workers; one before and one after it work too."""
    version: str
    """Version of rvc-train."""


class WorkerRegistration(RequestModel):
    """A worker as it registers."""

    name: Text
    pid: int = Field(ge=0, le=2**53)
    host: Text
    device: Text
    """Device of its engines, such as `cuda:1`."""
    device_name: Text
    """Model of the device, for users and estimates."""
    version: Text
    heartbeat_seconds: float = Field(ge=0, le=86_400)
    serves_conversions: bool
    num_gpus: int = Field(ge=0, le=1024)
    gpu_memory_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """Memory of the smallest GPU; null where it is unknown."""
    labels: dict[LabelKey, LabelValue] = Field(default={}, max_length=MAX_LABELS)


class WorkerRegistered(ResponseModel):
    """A registered worker and the key of its further requests."""

    worker_id: str
    key: str
    """Value of the header `Worker-Key`."""


class HeldLease(RequestModel):
    """A lease on a job."""

    lease_id: LeaseId
    key: Key


class WorkerBeat(RequestModel):
    """Heartbeat of a worker and of its lease on a job, if it has one."""

    lease: HeldLease | None = None


class WorkerBeatAnswer(ResponseModel):
    """Answer to a heartbeat: commands for the worker."""

    drain: Drain | None
    """Mode in which the worker is drained."""
    command: WorkerCommand
    """Command for the job of the lease."""
    lost: str | None
    """Why the lease is lost; null while it is valid, and without one."""


class JobClaim(RequestModel):
    """Claim of a job."""

    is_repeated: bool = False
    """Whether the answer to the last claim was lost: the job that it may have claimed is the answer."""
    job_id: str | None = Field(default=None, max_length=100)
    """Claim this job or none."""
    wait_seconds: float = Field(default=0, ge=0, le=MAX_WAIT_SECONDS)
    """Longest wait for a job. The open request is a heartbeat of the worker."""


class EngineBefore(ResponseModel):
    """Engine process of an earlier attempt; if still running, it is ended before a new one starts."""

    pid: int
    started_at: float
    """Start of the process in seconds since the epoch, because pids are reused."""
    host: str


class LeasedJob(ResponseModel):
    """A lease on a job: the right to run it."""

    lease_id: str
    """Part of the addresses of all that is asked for the job."""
    key: str
    """Value of the header `Lease-Key`."""
    job_id: str
    token: int
    """Number of the lease; a job's later lease has a greater one."""
    attempt: int
    voice: str
    """Name of the voice."""
    config: dict[str, Any]
    """Training config."""
    max_duration_seconds: float | None
    step_seconds: float | None
    """Time of a training step in earlier attempts; null when it was not measured."""
    previous_engine: EngineBefore | None


class JobClaimed(ResponseModel):
    """Answer to the claim of a job."""

    lease: LeasedJob | None
    """Null: none is due."""
    drain: Drain | None
    """Mode in which the worker is drained."""


class ConversionClaim(RequestModel):
    """Claim of a conversion."""

    wait_seconds: float = Field(default=0, ge=0, le=MAX_WAIT_SECONDS)
    """Longest wait for a conversion."""


class WorkFile(ResponseModel):
    """A file that the server has for a worker."""

    name: str
    """Last part of its address."""
    size_bytes: int
    sha256: str


class LeasedRecording(ResponseModel):
    """A recording to convert."""

    output: str
    """Name of its result."""
    file: WorkFile


class LeasedConversion(ResponseModel):
    """A lease on a conversion."""

    lease_id: str
    key: str
    """Value of the header `Lease-Key`."""
    conversion_id: str
    token: int
    voice: str
    """Name of the voice."""
    job_id: str
    save: str | None
    """`best`, `latest` or the number of a save; null: the finished voice."""
    job_config: dict[str, Any]
    """Training config of the job."""
    voice_files: list[WorkFile]
    """Files of the voice by kind: `voice`, `checkpoint`, `index`. Empty where another worker has them."""
    recordings: list[LeasedRecording]
    options: ConversionOptions
    max_seconds: float
    """Longest recording that is converted."""


class ConversionClaimed(ResponseModel):
    """Answer to the claim of a conversion."""

    lease: LeasedConversion | None
    """Null: none waits."""


class NeverClaimed(ResponseModel):
    """Whether a worker can claim a job."""

    reason: str | None
    """Reason why it cannot, now or later; null where it may."""


class GpuReport(RequestModel):
    """Reading of a worker's GPUs."""

    gpus: list[GpuPublic] = Field(max_length=1024)


class StatusesWanted(RequestModel):
    """Jobs that have folders on a worker's machine."""

    job_ids: list[Annotated[str, Field(max_length=100)]] = Field(max_length=1000)


class JobStatuses(ResponseModel):
    """Statuses of those jobs that the server has."""

    statuses: dict[str, JobStatus]


class HandedBack(ResponseModel):
    """Work of a worker whose process has ended."""

    ids: list[str]
    """Ids of its jobs and conversions, which wait again."""


class CalibrationNeed(ResponseModel):
    """Whether the speed of a device is to be measured."""

    is_missing: bool


class CalibrationReport(RequestModel):
    """Speed of a device."""

    device_name: Text
    calibration: Calibration
