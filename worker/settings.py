"""What the person who runs a worker may choose, by environment variables with the prefix `RVC_TRAIN_`."""

import os
import socket
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rvc_engine.child_processes import python_command, variable_names
from server.settings import database_url_of


def default_engine_command() -> list[str]:
    """The engine's program; the options of the run are appended."""
    return python_command("rvc_engine", "run")


class WorkerSettings(BaseSettings):
    """One frozen object, read once at start. Folder and database are named as the server names them."""

    model_config = SettingsConfigDict(
        env_prefix="RVC_TRAIN_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    data_folder: Path = Path("data")
    """Where recordings, workspaces, logs and artifacts lie; the server's."""
    database_url: str | None = None
    """SQLAlchemy URL; None: the SQLite file `rvc-train.db` in the data folder."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    worker_name: str = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    """What the worker is called in lists."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|cuda:\d+(\+cuda:\d+)+)$")
    """Where engines run: `auto`, `cpu`, `cuda:<n>`, or several GPUs that train one voice together: `cuda:0+cuda:1`."""
    engines_per_machine: int = Field(default=1, ge=1)
    """How many workers share this machine: each engine gets so large a part of the cores."""
    engine_command: list[str] = Field(default_factory=default_engine_command)
    """Program of the engine; the options of the run are appended."""
    engine_environment: str | None = None
    """Further environment variables that the engine gets: names with commas between, `AWS_*` for all that begin so."""
    scratch_folder: Path | None = None
    """Where engines work: a fast disk of this machine. None: in the data folder. Checkpoints are copied out of it."""
    trash_days: float = Field(default=7, gt=0, le=3650)
    """How long what belongs to no job is kept in the scratch folder's trash before it is deleted."""
    weights_folder: Path | None = None
    """Where published weights lie; None: `weights` in the data folder."""

    content_folder: Path | None = None
    """A HuBERT of one's own, for jobs with content=local: a folder with `config.json` and its weights."""

    poll_seconds: float = Field(default=1, gt=0)
    """How often an idle worker looks for a job."""
    heartbeat_seconds: float = Field(default=10, gt=0)
    """How often the worker says that it lives; the server's lease must be several times as long."""
    heartbeat_file: Path | None = None
    """A file that is touched at each heartbeat that the database took: for the health check of a container."""
    wish_seconds: float = Field(default=2, gt=0)
    """How often the worker of a running job asks whether it is to be cancelled or paused."""
    record_seconds: float = Field(default=1, gt=0)
    """How often events are written down, at most. Each time costs a worker about 4 ms of a CPU."""
    stop_seconds: float = Field(default=30, gt=0)
    """Silence after which an engine that was asked to stop is killed; longer when its steps or saves take longer."""
    silence_seconds: float = Field(default=1800, gt=0)
    """Silence after which an engine that nobody asked to stop counts as hung; longer when its steps take longer."""
    retry_delay_seconds: float = Field(default=10, ge=0)
    """Wait before the first retry of a failed attempt; doubled for each further one, to at most ten minutes."""
    lock_wait_seconds: float = Field(default=120, ge=0)
    """How long a new engine waits for an old one to let go of the workspace."""

    @field_validator("engine_environment")
    @classmethod
    def _check_names(cls, text: str | None) -> str | None:
        variable_names(text or "")
        return text

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        return database_url_of(self.data_folder, self.database_url)

    @property
    def num_threads(self) -> int:
        """CPU threads of one engine."""
        return max(1, (os.cpu_count() or 1) // self.engines_per_machine)
