"""The tables, except those of results. `server.jobs.service` and `server.datasets.service` document which code may
change which rows.

Jobs have two keys: `number`, an integer taken in the inserting transaction (the order of the queue, and the short key
of events and metrics), and `id`, the public one.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from rvc_train.schemas.jobs import LEASED_STATUSES, TERMINAL_STATUSES, JobStatus
from rvc_train.schemas.webhooks import DeliveryStatus
from server.database import derived_tables, result_tables  # noqa: F401 - in the same metadata
from server.database.base import LOCAL_OWNER, Table, UtcDateTime, in_sql, new_id, nullable_json, owner_column
from server.database.conversion_tables import Conversion
from server.database.dataset_tables import BaseWeights, Dataset, JobConsent, Upload, UploadState, change_upload

__all__ = [
    "LOCAL_OWNER",
    "BaseWeights",
    "Conversion",
    "Dataset",
    "JobConsent",
    "Upload",
    "UploadState",
    "change_upload",
    "new_id",
]  # besides the tables below

_LEASED = in_sql("status", LEASED_STATUSES)
_TERMINAL = in_sql("status", TERMINAL_STATUSES)
metadata = Table.metadata


def _where(condition: str) -> dict[str, Any]:
    """Options of a partial index."""
    return dict.fromkeys(("sqlite_where", "postgresql_where"), sa.text(condition))


class Job(Table, table=True):
    """A request to train a voice. Only `server.jobs.service.JobService` changes its status."""

    __tablename__ = "jobs"
    __table_args__ = (
        sa.CheckConstraint(in_sql("status", JobStatus), name="status_known"),
        sa.CheckConstraint(f"({_LEASED}) = (worker_id IS NOT NULL)", name="held_exactly_when_it_has_a_worker"),
        sa.CheckConstraint(f"NOT ({_LEASED}) OR token > 0", name="held_has_token"),
        sa.CheckConstraint(f"({_TERMINAL}) = (finished_at IS NOT NULL)", name="finished_exactly_when_terminal"),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_exactly_when_it_has_a_code"),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_fraction"),
        sa.CheckConstraint(
            "token >= 0 AND claims >= 0 AND failures >= 0 AND recoveries >= 0", name="counters_positive"
        ),
        sa.CheckConstraint("max_attempts >= 1", name="max_attempts_positive"),
        sa.Index("ix_jobs_worker_id", "worker_id", **_where("worker_id IS NOT NULL")),
        sa.Index("ix_jobs_retries", "dataset_id", **_where("retry_of IS NOT NULL")),
        *(
            sa.Index(f"ix_jobs_{column}_number", column, "number")
            for column in ("status", "owner", "dataset_id", "name")
        ),
        sa.Index("ix_jobs_owner_status_number", "owner", "status", "number"),
        sa.Index("ix_jobs_owner_name_number", "owner", "name", "number"),
        {"sqlite_autoincrement": True},
    )

    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    owner: str = owner_column(index=False)
    name: str
    dataset_id: str = Field(foreign_key="datasets.id")
    status: str = JobStatus.VALIDATING
    config: dict[str, Any] = Field(sa_type=sa.JSON)
    priority: int = 0
    labels: dict[str, str] = Field(default_factory=dict, sa_type=sa.JSON)
    max_attempts: int = 2
    max_duration_seconds: float | None = None
    resources: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    """Requirements on its worker, as given with the job."""
    needs: str = Field(default="", sa_column_kwargs={"server_default": ""})
    """All of its requirements, those that follow from its config included, as `server.scheduling.resources` writes
    them; empty for jobs before schema 0030, which any worker may take."""
    retry_of: str | None = None
    """Id of the job that this one retries; it may have been deleted since."""
    retry_from: str | None = None
    """`checkpoint` or `start`, for a retry."""
    fetch_weights: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    """Whether missing weights are downloaded for it."""
    start_from: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    """The save of an earlier job that it begins with: `job_id`, `voice`, `save`. Its own folder has the files."""
    weights_progress: float | None = None
    """Share of its missing weights that is downloaded, while it is `validating`; None: it does not wait for them."""

    token: int = 0
    """Fencing token, incremented by each claim; a worker's write must name the current one."""
    worker_id: str | None = Field(default=None, foreign_key="workers.id")
    heartbeat: int = 0
    """Counter incremented by each heartbeat; the reaper compares it with the value it saw before."""
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
    training_end: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    """End of a training with `total_epochs=auto`: the data of its event."""
    num_warnings: int = 0
    last_seq: int = 0
    """Number of the newest event."""

    error_code: str | None = None
    error_message: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    queued_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


_JOB: Any = Job
_QUEUED = _where("status = 'queued'")
sa.Index("ix_jobs_queue", _JOB.status, _JOB.priority.desc(), _JOB.number, **_QUEUED)
sa.Index("ix_jobs_queue_of_owner", _JOB.owner, _JOB.status, _JOB.priority.desc(), _JOB.number, **_QUEUED)
sa.Index("ix_jobs_queue_by_needs", _JOB.status, _JOB.needs, _JOB.priority, _JOB.owner, _JOB.number, **_QUEUED)
sa.Index("ix_jobs_queued_at", _JOB.status, _JOB.queued_at, **_QUEUED)
# The status, a constant, is a column of these too: SQLite prefers an index with an equality to one in the right order.


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
    """Status of the job after the attempt, or `lost`."""
    message: str | None = None
    engine_pid: int | None = None
    engine_started_at: float | None = None
    """Start time of that process as the system reports it, because pids are reused."""
    device: str | None = None
    """Device of the attempt, such as `cuda:1`. None, as the next three, for attempts before schema 0007."""
    device_name: str | None = None
    """Model of the device, such as `NVIDIA H100 80GB HBM3`."""
    step_seconds: float | None = None
    """Time of a training step, as last reported by the engine."""
    stage_seconds: dict[str, float] | None = Field(default=None, sa_column=nullable_json())
    """Duration of each stage that ran from beginning to end in this attempt."""
    stale_writes: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Rejected writes: they came after the token was replaced or the job had ended."""
    last_write: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Number of the worker's last numbered write. One repeated because its answer was lost changes nothing."""


class Event(Table, table=True):
    """An event of a job. `seq` is taken in the transaction that inserts it, so that no follower skips one."""

    __tablename__ = "events"
    __table_args__ = (
        sa.Index(
            "ix_events_position_job_number_seq", "position", "job_number", "seq", **_where("position IS NOT NULL")
        ),
        {"sqlite_with_rowid": False},
    )

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    seq: int = Field(primary_key=True)
    type: str
    level: str = "info"
    message: str
    data: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON)
    attempt: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)
    position: int | None = Field(default=None, sa_type=sa.BigInteger)
    """Place of its transaction in the order of all jobs' events; None for events before schema 0029."""


class EventCounter(Table, table=True):
    """One row: the last position of an event; on PostgreSQL what is added to the number of a transaction."""

    __tablename__ = "event_counter"
    __table_args__ = (sa.CheckConstraint("number = 1", name="single_row"),)

    number: int = Field(default=1, primary_key=True)
    position: int = Field(sa_type=sa.BigInteger)


class Metric(Table, table=True):
    """Value of a metric at a training step. A step repeated after a resume replaces its values."""

    __tablename__ = "metrics"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    key: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    value: float | None = None
    """None for a value that was not finite."""


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
    """Version of rvc-train."""
    schema_version: str | None = None
    """Schema that the worker reads and writes; None for one that was registered before schema 0018."""
    heartbeat_seconds: float | None = None
    """Interval of its heartbeats."""
    serves_conversions: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    """Whether it takes conversions, beside jobs."""
    num_gpus: int | None = None
    """GPUs that it trains on. None, as the memory, for one that was registered before schema 0030."""
    gpu_memory_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    """Memory of the smallest of its GPUs; None where it is unknown."""
    labels: dict[str, str] = Field(
        default_factory=dict, sa_type=sa.JSON, sa_column_kwargs={"server_default": sa.text("'{}'")}
    )
    """Labels that jobs may ask for."""
    is_draining: bool = False
    drain_mode: str | None = None
    """`hand_back` or `finish`, once it is draining."""
    registered_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)
    stopped_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Webhook(Table, table=True):
    """A subscription to events of an owner's jobs, or of one job."""

    __tablename__ = "webhooks"

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    job_id: str | None = Field(default=None, foreign_key="jobs.id", ondelete="CASCADE", index=True)
    url: str
    secret: str
    """Key that signs messages, so it cannot be stored as a hash."""
    events: list[str] = Field(sa_type=sa.JSON)
    old_secrets: list[dict[str, str]] = Field(default_factory=list, sa_type=sa.JSON)
    """Replaced keys that still sign, oldest first: `secret` and `until`, a time in ISO 8601."""
    is_enabled: bool = True
    disabled_reason: str | None = None
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failing_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Delivery(Table, table=True):
    """A message to a webhook and the state of its delivery."""

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.CheckConstraint(in_sql("status", DeliveryStatus), name="status_known"),
        sa.Index("ix_deliveries_due", "status", "next_try_at"),
    )

    id: str = Field(primary_key=True)
    webhook_id: str = Field(foreign_key="webhooks.id", ondelete="CASCADE", index=True)
    job_id: str | None = None
    event: str
    body: str
    """The exact text that is sent and signed."""
    status: str = DeliveryStatus.PENDING
    num_tries: int = 0
    next_try_at: datetime = Field(sa_type=UtcDateTime)
    last_status: int | None = None
    """HTTP status of the last response."""
    last_error: str | None = None
    last_tried_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Token(Table, table=True):
    """An access token. Its secret is not stored."""

    __tablename__ = "tokens"

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    name: str
    begins: str
    """First characters of the secret."""
    sha256: str = Field(unique=True)
    scopes: list[str] = Field(sa_type=sa.JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class BrowserSession(Table, table=True):
    """A browser's session, opened with a token. The browser has its id in a cookie; the row has the hash."""

    __tablename__ = "sessions"

    sha256: str = Field(primary_key=True)
    token_id: str | None = Field(default=None, foreign_key="tokens.id", ondelete="CASCADE")
    first_token_hash: str | None = None
    """Hash of RVC_TRAIN_TOKEN if that opened the session, which ends when the variable changes."""
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
    """GPU time of ended attempts, those of deleted jobs included, by owner and month."""

    __tablename__ = "spent_hours"

    owner: str = Field(primary_key=True)
    month: str = Field(primary_key=True)
    """Such as `2026-11`."""
    hours: float


class OwnerShare(Table, table=True):
    """GPU time of an owner's ended attempts and conversions, of which half is forgotten each day: for fair shares."""

    __tablename__ = "owner_shares"

    owner: str = Field(primary_key=True)
    gpu_seconds: float
    as_of: datetime = Field(sa_type=UtcDateTime)
    """Time at which `gpu_seconds` was right; it has faded since."""


class AuditEntry(Table, table=True):
    """An entry of the audit trail."""

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
    """Policies set by the server's administrator, by name."""

    __tablename__ = "policies"

    name: str = Field(primary_key=True)
    value: dict[str, Any] = Field(sa_type=sa.JSON)
    changed_at: datetime = Field(sa_type=UtcDateTime)


class Instance(Table, table=True):
    """The installation: one row, with the id in `instance.json`, and the version of rvc-train that opened it last."""

    __tablename__ = "instance"
    __table_args__ = (sa.CheckConstraint("number = 1", name="single_row"),)

    number: int = Field(default=1, primary_key=True)
    id: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    written_by: str | None = None


class IdempotencyKey(Table, table=True):
    """Idempotency key of a POST, kept for a day: the same key returns the same answer."""

    __tablename__ = "idempotency_keys"

    owner: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: str
    job_id: str
    """Id of the new job; empty for other requests."""
    answer: str | None = None
    """Response to the first request, JSON: the job, or status, headers and body (null if it had a secret).

    None while the request is being served.
    """
    created_at: datetime = Field(sa_type=UtcDateTime)
