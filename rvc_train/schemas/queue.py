"""Schemas of the queue, and of estimates for a job before its submission."""

from typing import Literal

from rvc_engine.config import VoiceName
from rvc_train.schemas.administration import MissingWeights
from rvc_train.schemas.base import ResponseModel
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import Forecast, JobCreate, JobStatus, Range


class QueueEntry(Forecast):
    """Queued or running job."""

    id: str
    name: str
    status: JobStatus
    priority: int
    queue_position: int | None
    """Last position in the queue that it can have, 1 for the next job."""
    progress: float
    eta_seconds: float | None
    lacking: list[str] = []
    """Reasons why none of the present workers could ever take it; empty when one could, and while none is there."""


class QueuePublic(ResponseModel):
    """Running and queued jobs."""

    running: list[QueueEntry]
    queued: list[QueueEntry]
    """The first 100."""
    num_queued: int
    num_validating: int
    num_workers: int
    """Number of workers that are alive."""


class EstimateRequest(JobCreate):
    """Job to estimate, as for its submission; the name is optional."""

    name: VoiceName = "voice"


class JobEstimate(ResponseModel):
    """Estimated resources of a job, as ranges; null: unknown yet."""

    dataset_status: DatasetStatus
    speech_seconds: float | None
    """Seconds of speech to train on; null until the dataset's report is ready."""
    num_clips: Range | None
    steps: Range | None
    """Training steps over all epochs, or within max_train_seconds."""
    seconds: Range | None
    """Seconds from its start to its end, without waiting; `likely` is the one number to show."""
    starts_in: Range | None
    """Seconds in the queue; null while no worker is alive, and behind a job whose duration is unknown."""
    disk_bytes: Range | None
    """Largest use of the data folder."""
    gpu_memory_bytes: Range
    """Rule of thumb; main memory on a CPU."""
    basis: Literal["measured", "calibrated"] | None
    """Source of clips, steps and seconds: finished jobs with the same settings, or a calibration of the worker's
    device; null without both."""
    basis_detail: str
    """The basis, in a sentence."""
    warnings: list[str]
    missing_weights: list[MissingWeights] = []
    """Published weights that the job needs and the server lacks; they are downloaded for a job with `fetch_weights`."""
    has_gpu: bool = False
    """Whether a live worker has a GPU."""
    jobs_per_device: int = 1
    """Largest number of jobs that share a device of a live worker: beside others, a job takes longer."""
