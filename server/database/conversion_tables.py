"""The table of conversions."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from rvc_train.schemas.voices.conversions import ENDED_CONVERSIONS, ConversionStatus
from server.database.base import Table, UtcDateTime, in_sql

_ENDED = in_sql("status", ENDED_CONVERSIONS)


class Conversion(Table, table=True):
    """Recordings to render in a voice. `server.conversions.queue` changes it once it is submitted.

    It goes with the job that trained the voice. The row comes before its files get their place, and goes before them.
    """

    __tablename__ = "conversions"
    __table_args__ = (
        sa.CheckConstraint(in_sql("status", ConversionStatus), name="status_known"),
        sa.CheckConstraint("(status = 'running') = (worker_id IS NOT NULL)", name="held_exactly_when_running"),
        sa.CheckConstraint(f"({_ENDED}) = (finished_at IS NOT NULL)", name="finished_exactly_when_ended"),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_exactly_when_it_has_a_code"),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_fraction"),
        sa.Index("ix_conversions_status_number", "status", "number"),
        sa.Index("ix_conversions_waiting", "status", "owner", "number"),
        {"sqlite_autoincrement": True},
    )

    number: int | None = Field(default=None, primary_key=True)
    """Order of the queue, taken in the inserting transaction."""
    id: str = Field(unique=True)
    owner: str = Field(index=True)
    voice: str
    """The voice's name."""
    job_id: str = Field(foreign_key="jobs.id", ondelete="CASCADE", index=True)
    save: str | None = None
    """`best`, `latest` or the number of a save; None: the finished voice."""
    status: str = ConversionStatus.WAITING
    options: dict[str, Any] = Field(sa_type=sa.JSON)
    """`rvc_train.schemas.voices.conversions.ConversionOptions`."""
    max_seconds: float
    """Longest recording that is converted, as the server's settings had it."""
    inputs: list[dict[str, Any]] = Field(sa_type=sa.JSON)
    """`name`, `output` (name of the result), `path` in the storage and `bytes` of each recording."""
    results: list[dict[str, Any]] = Field(default_factory=list, sa_type=sa.JSON)
    """A row for each recording: `name`, `path`, `bytes`, `sha256`, `seconds`, `pitch_shift`, `error`."""
    events: list[dict[str, Any]] = Field(default_factory=list, sa_type=sa.JSON)
    """`type`, `message` and `created_at` of each change of the status: a handful."""
    size: int = Field(sa_type=sa.BigInteger)
    """Bytes of its files."""
    progress: float = 0.0
    device: str | None = None
    device_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    worker_id: str | None = Field(default=None, foreign_key="workers.id")
    token: int = 0
    """Fencing token, incremented by each claim; a worker's write must name the current one."""
    heartbeat: int = 0
    """Counter incremented by each heartbeat; the reaper compares it with the value it saw before."""
    recoveries: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """Time of the last claim."""
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
