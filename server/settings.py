"""Settings of the server, read from environment variables with the prefix `RVC_TRAIN_`."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rvc_engine.child_processes import python_command
from rvc_train.local_servers import is_loopback
from server.errors import SettingsRefused

MIB = 2**20
GIB = 2**30

HOW_TO_GET_ONE = (
    "create one with: export RVC_TRAIN_TOKEN=$(python -c 'import secrets; print(\"rvc_\" + secrets.token_urlsafe(32))')"
)
Origin = Annotated[str, Field(pattern=r"^https?://[^/\s*?#@]+$")]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def default_report_command() -> list[str]:
    """Command of the program that reports on a dataset; the folder and `--output FILE` are appended."""
    return python_command("rvc_engine", "report")


def database_url_of(data_folder: Path, configured: str | None) -> str:
    """The database's SQLAlchemy URL: as configured, or the SQLite file in the data folder."""
    return configured or f"sqlite:///{data_folder.resolve() / 'rvc-train.db'}"


class ServerSettings(BaseSettings):
    """Settings of one server: frozen, read once at start."""

    model_config = SettingsConfigDict(
        env_prefix="RVC_TRAIN_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # the token must not be printed
        use_attribute_docstrings=True,
    )

    data_folder: Path = Path("data")
    """Folder of recordings, workspaces, logs and artifacts."""
    database_url: str | None = None
    """SQLAlchemy URL. None: the SQLite file `rvc-train.db` in the data folder."""
    storage_url: str | None = None
    """Store of recordings, voices, checkpoints and logs: `s3://BUCKET/PREFIX`, `gs://...`, `az://...` or
    `file:///FOLDER`. None: the data folder."""
    storage_cache_bytes: int = Field(default=20 * GIB, ge=0)
    """Bytes of copies in the data folder of what is in that store; those that were not used for longest go."""
    presigned_downloads: bool = False
    """Whether downloads of voices and indexes are answered with a redirect to an address of that store, valid for some
    minutes. `file:` has none."""
    host: str = "127.0.0.1"
    """Address to listen on. Any address but loopback requires `RVC_TRAIN_TOKEN`."""
    port: int = Field(default=8000, ge=0, le=65_535)
    token: SecretStr | None = None
    """Bootstrap admin token, sent as `Authorization: Bearer ...`. None: the data folder's local token."""
    local_token: bool = False
    """Whether the local token may serve beyond loopback as well. `rvc-train up` sets it."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = ()
    """Origins whose pages may call the API with a token, separated by commas: `https://studio.example.org`."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    max_upload_bytes: int = Field(default=4 * GIB, ge=1)
    """Maximum size of one upload."""
    max_files: int = Field(default=10_000, ge=1)
    """Maximum number of entries in one archive."""
    max_file_bytes: int = Field(default=2 * GIB, ge=1)
    """Maximum size of one recording, unpacked."""
    max_unpacked_bytes: int = Field(default=16 * GIB, ge=1)
    """Maximum size of one archive, unpacked."""
    max_ratio: float = Field(default=200, ge=1)
    """Maximum ratio of an archive's unpacked to packed bytes. Silent WAV reaches 100, a zip bomb 1000."""
    disk_reserve_bytes: int = Field(default=512 * MIB, ge=0)
    """Free space that uploads may not use; below it `/readyz` reports that the server is not ready."""

    upload_expire_hours: float = Field(default=24, gt=0, le=24 * 365)
    """Age at which a resumable upload without new data is deleted."""
    upload_idle_seconds: float = Field(default=60, gt=0)
    """Time without data after which a request body is aborted; a resumable upload keeps the bytes received."""

    require_consent: bool = False
    """Whether jobs are refused whose dataset has no consent of the speaker."""

    quota_jobs: int | None = Field(default=None, ge=0)
    """Unfinished jobs of one owner. None: no limit. A quota set for an owner overrides these three."""
    quota_bytes: int | None = Field(default=None, ge=0)
    """Bytes of one owner's uploads, datasets, base weights, conversions and files of jobs."""
    quota_gpu_hours: float | None = Field(default=None, ge=0)
    """Worker hours for one owner's jobs in a calendar month."""
    requests_per_minute: float | None = Field(default=1200, gt=0)
    """Requests per token, when tokens are in use. None: no limit."""
    writes_per_minute: float | None = Field(default=300, gt=0)
    """Writing requests per token."""
    refusals_per_minute: float | None = Field(default=20, gt=0)
    """Failed authentications per address."""
    max_unfinished_uploads: int = Field(default=100, ge=1)
    """Resumable uploads of one owner that exist and are no datasets yet."""
    max_uploads: int = Field(default=8, ge=1)
    """Uploads of one owner that are received at the same time."""
    max_streams: int = Field(default=32, ge=1)
    """Streams of events and logs of one owner at the same time."""
    max_open_requests: int = Field(default=500, ge=1)
    """Requests of one owner, or of one address without a token, at the same time, downloads included."""
    max_conversion_minutes: float = Field(default=10, gt=0, le=24 * 60)
    """Longest recording that is converted with a voice."""
    max_conversion_bytes: int = Field(default=512 * MIB, ge=1)
    """Maximum size of such a recording."""
    max_waiting_conversions: int = Field(default=20, ge=1)
    """Conversions of one owner that wait for a worker."""
    conversion_keep_hours: float = Field(default=24, gt=0, le=24 * 365)
    """Time after its end at which a conversion is deleted with its files."""
    session_hours: float = Field(default=24 * 7, gt=0)
    """Lifetime of a browser's session."""
    audit_days: float = Field(default=365, gt=0)
    """Age at which entries of the audit trail are deleted."""

    retention_seconds: float = Field(default=3600, gt=0)
    """Interval between runs of the retention policy."""

    trash_days: float = Field(default=7, gt=0, le=3650)
    """Age at which orphaned files in the data folder's trash are deleted."""

    public_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/[^\s]*)?$")
    """Address of the server for its users, such as `https://voices.example`. None: webhooks' messages have paths."""
    outbound_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks that webhooks and downloads from users' addresses may call beside public addresses, separated by commas:
    `10.1.0.0/16, 127.0.0.1`."""
    webhook_poll_seconds: float = Field(default=1, gt=0)
    """Interval between queries for webhook messages to send."""
    webhook_log_days: float = Field(default=30, gt=0)
    """Age at which delivered and failed webhook messages are deleted."""

    report_command: list[str] = Field(default_factory=default_report_command)
    """Program that reports on a dataset; the folder and `--output FILE` are appended."""
    report_timeout_seconds: float = Field(default=1800, gt=0)
    """Maximum wall time of one report."""
    report_cpu_seconds: int = Field(default=1200, ge=1)
    """Maximum CPU time of one report."""
    report_memory_bytes: int = Field(default=4 * GIB, ge=MIB)
    """Maximum address space of one report."""

    lease_seconds: float = Field(default=60, gt=0)
    """Time without a heartbeat after which a worker loses its job."""
    max_recoveries: int = Field(default=5, ge=0)
    """Lost workers after which a job fails."""
    queue_timeout_seconds: float | None = Field(default=None, gt=0)
    """Waiting time in the queue after which a job fails. None: no limit."""
    reaper_seconds: float = Field(default=5, gt=0)
    """Interval between checks for lost workers."""
    checkpoint_seconds: float = Field(default=60, gt=0)
    """Interval between checkpoints of SQLite's write-ahead log."""

    follow_poll_seconds: float = Field(default=0.4, gt=0)
    """Interval at which event and log streams poll."""
    keep_alive_seconds: float = Field(default=15, gt=0)
    """Interval of keep-alive comments on a silent stream, so that no proxy closes it."""

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        return database_url_of(self.data_folder, self.database_url)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_origins(cls, text: str | tuple[str, ...]) -> tuple[str, ...]:
        parts = text.split(",") if isinstance(text, str) else text
        return tuple(part.strip().rstrip("/").lower() for part in parts if part.strip())

    @field_validator("outbound_networks", mode="before")
    @classmethod
    def _parse_networks(cls, text: str | tuple[Network, ...]) -> tuple[Network, ...]:
        parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else text
        return tuple(ipaddress.ip_network(part) for part in parts if part)

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: object) -> object:
        if os.environ.get("RVC_TRAIN_WEBHOOK_ALLOW_PRIVATE"):
            raise SettingsRefused(
                "RVC_TRAIN_WEBHOOK_ALLOW_PRIVATE does not exist any more; remove it, and name the networks that "
                "webhooks may call, such as 10.1.0.0/16, in RVC_TRAIN_OUTBOUND_NETWORKS"
            )
        return values

    @model_validator(mode="after")
    def _check_exposure(self) -> "ServerSettings":
        token = None if self.token is None else self.token.get_secret_value()
        if token is not None and len(token) < 16:
            raise ValueError("RVC_TRAIN_TOKEN is shorter than 16 characters; " + HOW_TO_GET_ONE)
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("RVC_TRAIN_TOKEN has characters that no HTTP header can carry; " + HOW_TO_GET_ONE)
        return self

    @model_validator(mode="after")
    def _check_storage(self) -> "ServerSettings":
        for name in ("presigned_downloads", "storage_cache_bytes"):
            if self.storage_url is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"RVC_TRAIN_{name.upper()} is for object storage: set RVC_TRAIN_STORAGE_URL, or remove it"
                )
        return self

    def check_exposure(self) -> None:
        """Raise SettingsRefused when the server would be reachable from other machines without a token."""
        if self.token is None and not self.local_token and not is_loopback(self.host):
            raise SettingsRefused(
                f"listening on {self.host} exposes the server to other machines and requires a token; {HOW_TO_GET_ONE}"
            )
