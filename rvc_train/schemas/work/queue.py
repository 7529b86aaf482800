"""Schemas of the queue as those see it who start workers for its jobs."""

from rvc_train.schemas.base import ResponseModel


class WaitingJob(ResponseModel):
    """A queued job that is due, without its content and its owner."""

    job_id: str
    token: int
    """Number of its last lease, 0 before the first: job and number together name the attempt that is to come."""
    attempts: int
    """Times that a worker has begun it."""
    priority: int
    gpus: int
    """Least number of GPUs of its worker; 0: a CPU will do."""
    gpu_memory_bytes: int | None
    """Least memory of each GPU of its worker, if that has any; null: unknown."""
    labels: dict[str, str]
    """Labels that its worker must have."""


class WaitingJobs(ResponseModel):
    """The first of the jobs that are due."""

    jobs: list[WaitingJob]
    """By priority, and within one in turns among the owners, the one with the least GPU time first."""
