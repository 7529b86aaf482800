"""What the person who runs the server may choose, by environment variables with the prefix `RVC_TRAIN_`."""

import ipaddress
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rvc_engine.child_processes import python_command
from server.errors import SettingsRefused

MIB = 2**20
GIB = 2**30

HOW_TO_GET_ONE = (
    "make one with: export RVC_TRAIN_TOKEN=$(python -c 'import secrets; print(\"rvc_\" + secrets.token_urlsafe(32))')"
)
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_report_command() -> list[str]:
    """The program that looks at a dataset's recordings; the folder and `--output FILE` are appended."""
    return python_command("rvc_engine", "report")


def database_url_of(data_folder: Path, configured: str | None) -> str:
    """The database's SQLAlchemy URL: as configured, or of the SQLite file in the data folder."""
    return configured or f"sqlite:///{data_folder.resolve() / 'rvc-train.db'}"


class ServerSettings(BaseSettings):
    """One frozen object, read once at start."""

    model_config = SettingsConfigDict(
        env_prefix="RVC_TRAIN_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # the token must not show
        use_attribute_docstrings=True,
    )

    data_folder: Path = Path("data")
    """Where recordings, workspaces, logs and artifacts lie."""
    database_url: str | None = None
    """SQLAlchemy URL; None: the SQLite file `rvc-train.db` in the data folder."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything beyond loopback needs a token."""
    port: int = Field(default=8000, ge=0, le=65_535)
    token: SecretStr | None = None
    """Bootstrap admin token, sent as `Authorization: Bearer ...`. None: no token, and loopback only."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    max_upload_bytes: int = Field(default=4 * GIB, ge=1)
    """Of one upload."""
    max_files: int = Field(default=10_000, ge=1)
    """Entries of one archive."""
    max_file_bytes: int = Field(default=2 * GIB, ge=1)
    """Of one recording, unpacked."""
    max_unpacked_bytes: int = Field(default=16 * GIB, ge=1)
    """Of one archive, unpacked."""
    max_ratio: float = Field(default=200, ge=1)
    """Unpacked bytes of an archive by its packed ones. Silence in WAV packs a hundredfold; a bomb thousandfold."""
    disk_reserve_bytes: int = Field(default=512 * MIB, ge=0)
    """Free space that no upload may eat into; below it the server says that it is not ready."""

    upload_expire_hours: float = Field(default=24, gt=0, le=24 * 365)
    """An upload in pieces that gets no further piece for so long is deleted."""
    upload_idle_seconds: float = Field(default=60, gt=0)
    """A body of which nothing comes for so long is given up; what came before is kept where it can be resumed."""

    quota_jobs: int | None = Field(default=None, ge=0)
    """Jobs of one owner that are not at their end. None: no limit. An owner's own quota goes before these three."""
    quota_bytes: int | None = Field(default=None, ge=0)
    """Bytes of one owner's uploads, datasets and artifacts."""
    quota_gpu_hours: float | None = Field(default=None, ge=0)
    """Hours that workers may spend on one owner's jobs in a calendar month."""
    requests_per_minute: float | None = Field(default=1200, gt=0)
    """Of one token, where there are tokens. None: no limit."""
    writes_per_minute: float | None = Field(default=300, gt=0)
    """Requests that change something, of one token."""
    refusals_per_minute: float | None = Field(default=20, gt=0)
    """Tokens that open nothing, of one address."""
    session_hours: float = Field(default=24 * 7, gt=0)
    """How long a browser stays signed in."""
    audit_days: float = Field(default=365, gt=0)
    """How long the audit trail is kept."""

    retention_seconds: float = Field(default=3600, gt=0)
    """How often the retention policy is carried out."""

    trash_days: float = Field(default=7, gt=0, le=3650)
    """How long files that belong to nobody are kept in the data folder's trash before they are deleted."""

    webhook_allow_private: bool = False
    """Whether webhooks may go to addresses inside a network: this machine, the neighbours, the cloud's own."""
    webhook_poll_seconds: float = Field(default=1, gt=0)
    """How often the server looks for messages to send."""
    webhook_log_days: float = Field(default=30, gt=0)
    """How long messages that were sent, or given up, are kept to look at."""

    report_command: list[str] = Field(default_factory=default_report_command)
    """Program that reports on a dataset; the folder and `--output FILE` are appended."""
    report_timeout_seconds: float = Field(default=1800, gt=0)
    """Wall time of one report."""
    report_cpu_seconds: int = Field(default=1200, ge=1)
    """CPU time of one report."""
    report_memory_bytes: int = Field(default=4 * GIB, ge=MIB)
    """Address space of one report."""

    lease_seconds: float = Field(default=60, gt=0)
    """A worker whose heartbeat stands still for so long has lost its job."""
    retry_delay_seconds: float = Field(default=10, ge=0)
    """Wait before the first retry of a failed attempt; doubled for each further one, to at most ten minutes."""
    max_recoveries: int = Field(default=5, ge=0)
    """How often a job may lose its worker before it has failed."""
    queue_timeout_seconds: float | None = Field(default=None, gt=0)
    """A job that waits longer in the queue fails. None: it waits for ever."""
    reaper_seconds: float = Field(default=5, gt=0)
    """How often the server looks for lost workers."""
    checkpoint_seconds: float = Field(default=60, gt=0)
    """How often the server folds SQLite's write-ahead log into the database file."""

    follow_poll_seconds: float = Field(default=0.4, gt=0)
    """How often a follower of events or logs looks for news."""
    keep_alive_seconds: float = Field(default=15, gt=0)
    """A silent stream sends a comment so often, so that nothing between closes it."""

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        return database_url_of(self.data_folder, self.database_url)

    @model_validator(mode="after")
    def _check_exposure(self) -> "ServerSettings":
        token = None if self.token is None else self.token.get_secret_value()
        if token is not None and len(token) < 16:
            raise ValueError("RVC_TRAIN_TOKEN is shorter than 16 characters; " + HOW_TO_GET_ONE)
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("RVC_TRAIN_TOKEN holds what no HTTP header can carry; " + HOW_TO_GET_ONE)
        return self

    def check_exposure(self) -> None:
        """Raise SettingsRefused when the server would listen beyond this machine without a token."""
        if self.token is None and not is_loopback(self.host):
            raise SettingsRefused(
                f"the server would listen on {self.host}, beyond this machine, with no token; {HOW_TO_GET_ONE}"
            )
