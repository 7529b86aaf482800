"""Workers and their GPUs."""

from datetime import datetime
from typing import Literal

from rvc_train.schemas.base import ResponseModel


class GpuPublic(ResponseModel):
    """What a GPU is doing, with whatever else runs on it."""

    name: str
    use: float | None = None
    """0..1: share of the last moment in which it computed; None where its driver cannot tell."""
    memory_used_bytes: int
    memory_total_bytes: int


class WorkerPublic(ResponseModel):
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


class WorkerList(ResponseModel):
    """All workers that registered in the last day."""

    data: list[WorkerPublic]
