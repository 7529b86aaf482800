"""Settings of a worker, read from environment variables with the prefix `RVC_TRAIN_`."""

import os
import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, TypeAdapter, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rvc_engine.child_processes import python_command, variable_names
from rvc_train.schemas.jobs import MAX_LABELS, LabelKey, LabelValue

GIB = 2**30


def default_engine_command() -> list[str]:
    """Command of the engine; the options of the run are appended."""
    return python_command("rvc_engine", "run")


def default_conversion_command() -> list[str]:
    """Command of the engine that converts; its options are appended."""
    return python_command("rvc_engine", "serve-conversions")


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)]
_LABELS = TypeAdapter(Labels)


def parse_labels(text: str) -> dict[str, str]:
    """Labels written as `KEY=VALUE`, separated by commas. Raises ValueError for invalid ones."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    for key, equals, _ in pairs:
        if not equals:
            raise ValueError(f"{key!r} is no label; write KEY=VALUE, and commas between several")
    return _LABELS.validate_python({key.strip(): value.strip() for key, _, value in pairs})


class WorkerSettings(BaseSettings):
    """Settings of a worker, read once at start. Data folder and database have the same variables as the server's."""

    model_config = SettingsConfigDict(
        env_prefix="RVC_TRAIN_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # the token must not be printed
    )

    data_folder: Path = Path("data")
    """Folder of recordings, workspaces, logs and artifacts; the same as the server's."""
    database_url: str | None = None
    """SQLAlchemy URL; None: the SQLite file `rvc-train.db` in the data folder."""
    storage_url: str | None = None
    """Store behind the data folder; the same as the server's."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    worker_server: str | None = None
    """Address of a server on another machine: files are exchanged with it, and the database is not opened. None: the
    server that has the same data folder and database."""
    token: SecretStr | None = None
    """Token with the scope `work` for that server."""
    claim_wait_seconds: float = Field(default=25, ge=0)
    """Longest wait of an idle worker's request to that server; less where a proxy ends requests sooner."""

    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """Name of the worker in lists."""
    worker_labels: str | None = None
    """Labels that jobs may ask for in `resources`: `KEY=VALUE`, separated by commas."""
    worker_job: str | None = None
    """Id of the only job to run; the worker ends with it."""
    worker_max_jobs: int | None = Field(default=None, ge=1)
    """Number of attempts at jobs after which the worker ends."""
    exit_when_idle_seconds: float | None = Field(default=None, ge=0)
    """Seconds without a job or a conversion after which the worker ends."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?|cuda:\d+(\+cuda:\d+)+)$")
    """Device of the engines: `auto`, `cpu`, `cuda:<n>`, `xpu:<n>`, `mps`, or several GPUs that train one voice:
    `cuda:0+cuda:1`."""
    jobs_per_device: int = Field(default=1, ge=1, le=16)
    """Number of jobs at once on the device, each with an equal share of its memory."""
    engines_per_machine: int = Field(default=1, ge=1)
    """Number of workers on this machine, among whose engines the cores are divided."""
    engine_command: list[str] = Field(default_factory=default_engine_command)
    """Command of the engine; the options of the run are appended."""
    engine_environment: str | None = None
    """Further environment variables for the engine: names separated by commas, `AWS_*` for all with that prefix."""
    scratch_folder: Path | None = None
    """Folder for workspaces on a fast local disk, with checkpoints copied out of it. None: in the data folder."""
    trash_days: float = Field(default=7, gt=0, le=3650)
    """Days until files without a job are deleted from the scratch folder's trash."""
    weights_folder: Path | None = None
    """Folder of the published weights; None: `weights` in the data folder."""

    content_folder: Path | None = None
    """Folder of a custom HuBERT, with `config.json` and weights, for jobs with content=local."""

    calibrate: bool = True
    """Whether an idle worker measures the speed of its device, once for each version, so that the first job has an
    estimate."""
    calibration_idle_seconds: float = Field(default=5, ge=0)
    """Seconds without a job until it begins. A job that comes meanwhile ends it."""
    conversions: bool = True
    """Whether this worker serves conversions, beside jobs."""
    conversion_command: list[str] = Field(default_factory=default_conversion_command)
    """Command of the engine that converts; its options are appended."""
    conversion_idle_minutes: float = Field(default=5, gt=0)
    """Minutes after the last conversion until its engine, with the voices that it has loaded, is ended."""
    conversion_memory_bytes: int = Field(default=4 * GIB, ge=GIB)
    """Most memory of a GPU that conversions take. Where less is free they run on the CPU."""
    conversion_spare_bytes: int = Field(default=GIB, ge=0)
    """Memory of a GPU that conversions leave free for trainings: with less, their engine leaves the GPU at once."""

    poll_seconds: float = Field(default=1, gt=0)
    """Interval at which an idle worker polls for a job."""
    heartbeat_seconds: float = Field(default=10, gt=0)
    """Interval of the worker's heartbeats; the server's lease must be several times as long."""
    heartbeat_file: Path | None = None
    """File that is touched after each accepted heartbeat, for the health check of a container."""
    max_turn_seconds: float = Field(default=900, gt=0)
    """Seconds without a turn of the worker's main loop, hung in a call to a disk, until it sends no more heartbeats."""
    wish_seconds: float = Field(default=2, gt=0)
    """Interval at which the worker of a running job checks whether to cancel or pause it."""
    record_seconds: float = Field(default=1, gt=0)
    """Shortest interval at which events are recorded. Each time costs a worker about 4 ms of CPU time."""
    stop_seconds: float = Field(default=30, gt=0)
    """Seconds without an event until an engine that was asked to stop is killed; more when its steps take long."""
    silence_seconds: float = Field(default=1800, gt=0)
    """Seconds without an event until an engine is considered hung and stopped; more when its steps take long."""
    retry_delay_seconds: float = Field(default=10, ge=0)
    """Wait before the first retry of a failed attempt; doubled for each further one, to at most ten minutes."""
    max_recoveries: int = Field(default=5, ge=0)
    """Number of lost workers or errors of workers after which a job fails; the same as the server's."""
    disk_wait_seconds: float = Field(default=600, ge=0)
    """Longest wait for a disk that is full or fails, before the engine starts and once it has ended."""
    lock_wait_seconds: float = Field(default=120, ge=0)
    """Longest time that a new engine waits for an old one to release the workspace."""

    @field_validator("engine_environment")
    @classmethod
    def _check_names(cls, text: str | None) -> str | None:
        variable_names(text or "")
        return text

    @field_validator("worker_labels")
    @classmethod
    def _check_labels(cls, text: str | None) -> str | None:
        parse_labels(text or "")
        return text

    @property
    def labels(self) -> dict[str, str]:
        """Labels that jobs may ask for."""
        return parse_labels(self.worker_labels or "")

    @property
    def num_places(self) -> int:
        """Number of jobs that this process runs at once. One that is for a certain job has one share of the device."""
        return 1 if self.worker_job is not None else min(self.jobs_per_device, self.worker_max_jobs or 16)

    @property
    def worker_threads(self) -> int:
        """CPU threads of all engines of this worker together."""
        return max(1, (os.cpu_count() or 1) // self.engines_per_machine)

    @property
    def num_threads(self) -> int:
        """CPU threads of the engine of one job."""
        return max(1, self.worker_threads // self.jobs_per_device)
