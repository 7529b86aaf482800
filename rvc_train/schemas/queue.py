"""The queue, and estimates of a job before its submission."""

from typing import Literal

from rvc_engine.config import VoiceName
from rvc_train.schemas.base import ResponseModel
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobCreate, JobStatus, Range


class QueueEntry(ResponseModel):
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


class QueuePublic(ResponseModel):
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


class JobEstimate(ResponseModel):
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
    basis: Literal["measured"] | None
    """Source of clips, steps and seconds: finished jobs with the same settings; None without such jobs."""
    basis_detail: str
    """In a sentence."""
    warnings: list[str]
