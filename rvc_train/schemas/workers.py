"""Schemas of workers and their GPUs, and the commands that workers get."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import computed_field

from rvc_train.schemas.base import ResponseModel

_SHARE = re.compile(r" \(1/(\d+)\)$")


def share_name(device_name: str, num_jobs: int) -> str:
    """Name of one share of a device on which several jobs run at once, such as `NVIDIA L4 (1/4)`.

    Calibrations and measured jobs belong to a device's name, so those of shares are kept apart from those of all of it.
    """
    return device_name if num_jobs == 1 else f"{device_name} (1/{num_jobs})"


def num_sharing(device_name: str | None) -> int:
    """Number of jobs that run at once on a device with this name."""
    found = _SHARE.search(device_name or "")
    return int(found[1]) if found else 1


class WorkerCommand(StrEnum):
    """Command for the worker that holds the lease."""

    NONE = "none"
    """Continue."""
    CANCEL = "cancel"
    """Stop the engine and release the job: it will be cancelled."""
    PAUSE = "pause"
    """Stop the engine after a checkpoint and release the job: it will be paused."""
    DRAIN = "drain"
    """Stop the engine after a checkpoint and release the job: another worker continues it."""


class Drain(StrEnum):
    """Mode in which a worker is drained."""

    HAND_BACK = "hand_back"
    """Stop the present job after a checkpoint and release it to another worker."""
    FINISH = "finish"
    """Finish the present job first."""

    @classmethod
    def of(cls, is_draining: bool, mode: str | None) -> "Drain | None":
        """The mode in a worker's row; None when it is not draining."""
        if not is_draining:
            return None
        return cls.HAND_BACK if mode is None else cls(mode)


class GpuPublic(ResponseModel):
    """Reading of a GPU, including other programs on it."""

    name: str
    use: float | None = None
    """Share of the last sampling interval in which it computed, 0..1; null where the driver does not report it."""
    memory_used_bytes: int
    memory_total_bytes: int


class WorkerPublic(ResponseModel):
    """Worker: a process that runs jobs."""

    id: str
    name: str
    host: str
    pid: int
    device: str
    """Device of its engines, such as `cuda:1`."""
    device_name: str | None = None
    """Name of the device, such as `NVIDIA H100 80GB HBM3`; `(1/4)` behind it is a share of one."""
    version: str | None = None
    """Version of rvc-train that the worker runs."""
    is_outdated: bool = False
    """Whether it reads another schema of the database than the server: it finishes its job, and takes no other."""
    serves_conversions: bool = False
    """Whether it converts recordings, beside jobs."""
    num_gpus: int | None = None
    """Number of GPUs that it trains on; 0 on a CPU, null for a worker of an earlier version."""
    gpu_memory_bytes: int | None = None
    """Memory of the smallest of them, or the worker's share of it; null where it is unknown."""
    labels: dict[str, str] = {}
    """Labels that jobs may ask for in `resources`."""

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def jobs_per_device(self) -> int:
        """Number of jobs that run at once on its device, one of them here; each has a worker."""
        return num_sharing(self.device_name)

    drain_mode: Literal["hand_back", "finish"] | None = None
    """While it drains: whether it releases its job or finishes it."""
    status: Literal["idle", "busy", "draining", "lost", "stopped"]
    job_id: str | None
    registered_at: datetime
    last_seen_at: datetime
    gpus: list[GpuPublic] = []
    """Recent readings of its GPUs; empty on a CPU, and for a worker that has ended."""
