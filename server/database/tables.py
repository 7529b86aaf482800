"""The tables. Who may change which is documented in `server.jobs.service` and `server.datasets.service`.

Jobs have two names: `number`, an integer taken in the inserting transaction (the order of the queue, and the short key
of events and metrics), and `id`, the one that the world sees.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
import uuid6
from sqlmodel import Field, SQLModel

from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import LEASED_STATUSES, TERMINAL_STATUSES, JobStatus
from rvc_train.schemas.webhooks import DeliveryStatus

LOCAL_OWNER = "local"
"""Whose everything is on a server without tokens; also the owner of `RVC_TRAIN_TOKEN`."""

NAMING: dict[str, str] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)


def new_id(prefix: str) -> str:
    """A UUIDv7 with a prefix: ids sort by the time they were made."""
    return f"{prefix}_{uuid6.uuid7().hex}"


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A time with its zone, always UTC; SQLite keeps it without the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _in(
    column: str, values: frozenset[JobStatus] | type[JobStatus] | type[DatasetStatus] | type[DeliveryStatus]
) -> str:
    return f"{column} IN ({', '.join(sorted(repr(str(value)) for value in values))})"


class Table(SQLModel):
    """Base of all rows, with names for every constraint so that migrations can speak of them."""

    metadata: ClassVar[sa.MetaData] = metadata


def _owner() -> Any:
    return Field(default=LOCAL_OWNER, index=True, sa_column_kwargs={"server_default": LOCAL_OWNER})


class Dataset(Table, table=True):
    """Recordings of one voice. Immutable once admitted; a deleted one leaves its row, and no file."""

    __tablename__ = "datasets"
    __table_args__ = (
        sa.CheckConstraint(_in("status", DatasetStatus), name="status_known"),
        sa.CheckConstraint("status <> 'invalid' OR reason IS NOT NULL", name="invalid_has_reason"),
        # The same bytes of one owner under the same name are one dataset, as long as it lives.
        sa.Index(
            "uq_datasets_owner_name_sha256",
            "owner",
            "name",
            "sha256",
            unique=True,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True)
    owner: str = _owner()
    name: str
    status: str = DatasetStatus.VALIDATING
    reason: str | None = None
    sha256: str
    size: int = Field(sa_type=sa.BigInteger)
    """Of the upload."""
    stored_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    """What its recordings take, unpacked. None, and then `size` stands for it, where that was not written down yet."""
    num_files: int
    num_usable: int | None = None
    seconds: float | None = None
    notes: list[str] = Field(default_factory=list, sa_type=sa.JSON)
    report: dict[str, Any] | None = Field(default=None, sa_column=sa.Column(sa.JSON(none_as_null=True), nullable=True))
    created_at: datetime = Field(sa_type=UtcDateTime)
    validated_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Upload(Table, table=True):
    """A body that comes in pieces, and becomes a dataset. How much has come is the length of its file."""

    __tablename__ = "uploads"
    __table_args__ = (sa.CheckConstraint("length > 0", name="length_positive"),)

    id: str = Field(primary_key=True)
    owner: str
    length: int = Field(sa_type=sa.BigInteger)
    tus_metadata: str
    """As the client sent it."""
    unverified_from: int | None = Field(default=None, sa_type=sa.BigInteger)
    """Beyond so many bytes lies a piece whose checksum has not been found right."""
    dataset_id: str | None = None
    """What it became; its file is gone then."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime, index=True)


class Job(Table, table=True):
    """A request to train a voice. Only `server.jobs.service.JobService` changes its status."""

    __tablename__ = "jobs"
    __table_args__ = (
        sa.CheckConstraint(_in("status", JobStatus), name="status_known"),
        sa.CheckConstraint(
            f"({_in('status', LEASED_STATUSES)}) = (worker_id IS NOT NULL)", name="held_exactly_when_it_has_a_worker"
        ),
        sa.CheckConstraint(f"NOT ({_in('status', LEASED_STATUSES)}) OR token > 0", name="held_has_token"),
        sa.CheckConstraint(
            f"({_in('status', TERMINAL_STATUSES)}) = (finished_at IS NOT NULL)", name="finished_exactly_when_terminal"
        ),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_exactly_when_it_has_a_code"),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_fraction"),
        sa.CheckConstraint(
            "token >= 0 AND claims >= 0 AND failures >= 0 AND recoveries >= 0", name="counters_positive"
        ),
        sa.CheckConstraint("max_attempts >= 1", name="max_attempts_positive"),
        sa.Index("ix_jobs_queue", "status", "priority", "number"),
        {"sqlite_autoincrement": True},
    )

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    owner: str = _owner()
    name: str
    dataset_id: str = Field(foreign_key="datasets.id", index=True)
    status: str = JobStatus.VALIDATING
    config: dict[str, Any] = Field(sa_type=sa.JSON)
    priority: int = 0
    labels: dict[str, str] = Field(default_factory=dict, sa_type=sa.JSON)
    max_attempts: int = 2
    max_duration_seconds: float | None = None
    retry_of: str | None = None
    """Id of the job that this one tries again; it may be deleted since."""
    retry_from: str | None = None
    """`checkpoint` or `start`, where it is a retry."""

    token: int = 0
    """Raised by each claim; a worker's write needs the present one."""
    worker_id: str | None = Field(default=None, foreign_key="workers.id")
    heartbeat: int = 0
    """Raised by each heartbeat; the reaper compares it with what it saw before."""
    not_before: datetime = Field(sa_type=UtcDateTime)
    claims: int = 0
    failures: int = 0
    recoveries: int = 0

    stage: str | None = None
    progress: float = 0.0
    eta_seconds: float | None = None
    epoch: int | None = None
    total_epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    step_seconds: float | None = None
    losses: dict[str, float | None] = Field(default_factory=dict, sa_type=sa.JSON)
    num_warnings: int = 0
    last_seq: int = 0
    """Number of the newest event."""

    error_code: str | None = None
    error_message: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    queued_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Attempt(Table, table=True):
    """One run of a job by one worker under one token."""

    __tablename__ = "attempts"
    __table_args__ = (sa.UniqueConstraint("job_number", "token"),)

    id: int | None = Field(default=None, primary_key=True)
    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE")
    attempt: int
    token: int
    worker_id: str = Field(foreign_key="workers.id")
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    outcome: str | None = None
    """Status the job went to at its end, or `lost`."""
    message: str | None = None
    engine_pid: int | None = None
    engine_started_at: float | None = None
    """Start time of that process, as the system tells it: a pid alone may have been given to another process."""
    device: str | None = None
    """Where the worker ran it, such as `cuda:1`. None, as what follows, of attempts before this was written down."""
    device_name: str | None = None
    """What that device is, such as `NVIDIA H100 80GB HBM3`."""
    step_seconds: float | None = None
    """Time of a training step, as the engine told it last."""
    stage_seconds: dict[str, float] | None = Field(
        default=None, sa_column=sa.Column(sa.JSON(none_as_null=True), nullable=True)
    )
    """How long each stage took that was done from its beginning to its end."""
    stale_writes: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Writes that came after the token was replaced or the job had ended, and were turned away."""


class JobSize(Table, table=True):
    """What a job's files take, its artifacts left out, as it was measured last."""

    __tablename__ = "job_sizes"

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    bytes: int = Field(sa_type=sa.BigInteger)
    measured_at: datetime = Field(sa_type=UtcDateTime)


class Event(Table, table=True):
    """One thing that happened to a job. `seq` is taken in the transaction that tells it: no follower skips one."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    seq: int = Field(primary_key=True)
    type: str
    level: str = "info"
    message: str
    data: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)
    attempt: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)


class Metric(Table, table=True):
    """One number at one training step. A step done again after a resume replaces its numbers."""

    __tablename__ = "metrics"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    key: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    value: float | None = None
    """None where the number was not finite."""


class Artifact(Table, table=True):
    """A file that a job offers. `path` is relative to the storage's root and holds no word of the user's."""

    __tablename__ = "artifacts"
    __table_args__ = (sa.UniqueConstraint("job_number", "name"),)

    id: str = Field(primary_key=True)
    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE")
    kind: str
    name: str
    path: str
    size: int = Field(sa_type=sa.BigInteger)
    sha256: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class Evaluation(Table, table=True):
    """What a save is worth. A step done again replaces its row, and later ones go with it."""

    __tablename__ = "evaluations"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    step: int = Field(primary_key=True)
    epoch: int
    values: dict[str, float] = Field(default_factory=dict, sa_type=sa.JSON)
    """By the keys of the metrics."""
    held_out: bool
    num_clips: int
    is_best: bool
    """Of at most one row of a job."""
    created_at: datetime = Field(sa_type=UtcDateTime)


class Preview(Table, table=True):
    """A clip as the voice spoke it at a save. Paths as `Artifact.path`."""

    __tablename__ = "previews"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    step: int = Field(primary_key=True)
    clip: int = Field(primary_key=True)
    epoch: int
    seconds: float
    scores: dict[str, float] = Field(default_factory=dict, sa_type=sa.JSON)
    audio_path: str
    audio_size: int = Field(sa_type=sa.BigInteger)
    audio_sha256: str
    picture_path: str
    picture_size: int = Field(sa_type=sa.BigInteger)
    picture_sha256: str
    recording_path: str
    recording_size: int = Field(sa_type=sa.BigInteger)
    recording_sha256: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class Worker(Table, table=True):
    """A process that runs jobs."""

    __tablename__ = "workers"

    id: str = Field(primary_key=True)
    name: str
    pid: int
    host: str
    device: str
    device_name: str | None = None
    version: str | None = None
    """Of rvc-train."""
    is_draining: bool = False
    drain_mode: str | None = None
    """`hand_back` or `finish`, once it is draining."""
    registered_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)
    stopped_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Webhook(Table, table=True):
    """Someone who wants to be told of jobs: of all of an owner's, or of one."""

    __tablename__ = "webhooks"

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    job_id: str | None = Field(default=None, foreign_key="jobs.id", ondelete="CASCADE", index=True)
    url: str
    secret: str
    """Messages are signed with it, so it cannot be kept as a hash."""
    events: list[str] = Field(sa_type=sa.JSON)
    is_enabled: bool = True
    disabled_reason: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)


class Delivery(Table, table=True):
    """One message to a webhook, and what became of it."""

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.CheckConstraint(_in("status", DeliveryStatus), name="status_known"),
        sa.Index("ix_deliveries_due", "status", "next_try_at"),
    )

    id: str = Field(primary_key=True)
    webhook_id: str = Field(foreign_key="webhooks.id", ondelete="CASCADE", index=True)
    job_id: str | None = None
    event: str
    body: str
    """What is sent and signed, byte by byte."""
    status: str = DeliveryStatus.PENDING
    num_tries: int = 0
    next_try_at: datetime = Field(sa_type=UtcDateTime)
    last_status: int | None = None
    """HTTP status of the last answer."""
    last_error: str | None = None
    last_tried_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Token(Table, table=True):
    """A key to the server. Its secret is not here."""

    __tablename__ = "tokens"

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    name: str
    begins: str
    """The secret's first letters."""
    sha256: str = Field(unique=True)
    scopes: list[str] = Field(sa_type=sa.JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class BrowserSession(Table, table=True):
    """A browser that showed a token; it holds the session's id in a cookie, we its hash."""

    __tablename__ = "sessions"

    sha256: str = Field(primary_key=True)
    token_id: str | None = Field(default=None, foreign_key="tokens.id", ondelete="CASCADE")
    first_token_hash: str | None = None
    """Of RVC_TRAIN_TOKEN, where that was shown: another one ends the session."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class QuotaRow(Table, table=True):
    """An owner's own quota."""

    __tablename__ = "quotas"

    owner: str = Field(primary_key=True)
    max_jobs: int | None = None
    max_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    max_gpu_hours: float | None = None


class SpentHours(Table, table=True):
    """GPU time of jobs that are deleted, by owner and month."""

    __tablename__ = "spent_hours"

    owner: str = Field(primary_key=True)
    month: str = Field(primary_key=True)
    """As 2026-11."""
    hours: float


class AuditEntry(Table, table=True):
    """Something that someone did."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: int | None = Field(default=None, primary_key=True)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)
    actor: str
    token_id: str | None = None
    address: str
    request_id: str
    action: str
    target: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)


class Policy(Table, table=True):
    """Decisions of the server's administrator, by name."""

    __tablename__ = "policies"

    name: str = Field(primary_key=True)
    value: dict[str, Any] = Field(sa_type=sa.JSON)
    changed_at: datetime = Field(sa_type=UtcDateTime)


class Instance(Table, table=True):
    """The installation that the database belongs to: one row, and the same id in the data folder's `instance.json`."""

    __tablename__ = "instance"
    __table_args__ = (sa.CheckConstraint("number = 1", name="single_row"),)

    number: int = Field(default=1, primary_key=True)
    id: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class IdempotencyKey(Table, table=True):
    """A key that a caller gave to a submission, kept for a day: the same key gives the same job."""

    __tablename__ = "idempotency_keys"

    owner: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: str
    job_id: str
    answer: str | None = None
    """What the first request was answered with, JSON."""
    created_at: datetime = Field(sa_type=UtcDateTime)
