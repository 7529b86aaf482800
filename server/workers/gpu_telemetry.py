"""GPU telemetry of workers: a small file per worker, replaced at each sample.

Kept beside the database, not in it: it changes all the time, and may be lost in a power failure.
"""

import contextlib
import os
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError

from rvc_engine.environment.files import replace
from rvc_train.schemas.base import ResponseModel
from rvc_train.schemas.workers import GpuPublic, WorkerPublic
from server.storage.local import Storage

RETENTION = timedelta(days=1)
"""The same as for listed workers."""


class GpuTelemetry(ResponseModel):
    """Content of a telemetry file."""

    read_at: datetime
    gpus: list[GpuPublic]


def write_gpu_telemetry(storage: Storage, worker_id: str, gpus: Sequence[GpuPublic], now: datetime) -> None:
    """Replace a worker's telemetry. OSError when the storage cannot be written."""
    path = storage.gpu_telemetry_file(worker_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(GpuTelemetry(read_at=now, gpus=list(gpus)).model_dump_json(), encoding="utf-8")
    replace(temporary, path)


def delete_gpu_telemetry(storage: Storage, now: datetime, worker_id: str | None = None) -> None:
    """Delete a worker's file, and the files of workers that were lost longer than `RETENTION` ago."""
    for path in storage.gpu_telemetry_files():
        with contextlib.suppress(OSError):  # another worker may delete it at the same time
            if path.name == worker_id or path.stat().st_mtime < (now - RETENTION).timestamp():
                path.unlink()


def with_gpus(workers: Sequence[WorkerPublic], storage: Storage, lease_seconds: float) -> list[WorkerPublic]:
    """The workers with their GPU telemetry of the last lease; without GPUs where there is none."""
    return [worker.model_copy(update={"gpus": _gpus(worker, storage, lease_seconds)}) for worker in workers]


def _gpus(worker: WorkerPublic, storage: Storage, lease_seconds: float) -> list[GpuPublic]:
    if worker.status in {"stopped", "lost"}:
        return []
    try:
        telemetry = GpuTelemetry.model_validate_json(storage.gpu_telemetry_file(worker.id).read_bytes())
    except (OSError, ValidationError):
        return []
    age = worker.last_seen_at - telemetry.read_at  # both by the worker's clock
    return telemetry.gpus if age < timedelta(seconds=lease_seconds) else []
