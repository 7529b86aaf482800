"""Quotas of each owner: unfinished jobs, bytes stored, GPU hours per month.

They are checked in the transaction that adds the job or the bytes.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from rvc_train.schemas.access import OwnerPublic, Quota, Usage
from rvc_train.schemas.jobs import TERMINAL_STATUSES, JobStatus
from server.auth.audit import record
from server.database.engine import advisory_lock, read_session, write_session
from server.database.result_tables import StoredFileRow
from server.database.tables import Attempt, BaseWeights, Conversion, Dataset, Job, QuotaRow, SpentHours, Token, Upload
from server.errors import QuotaExceeded, StorageQuotaExceeded
from server.settings import ServerSettings

UNFINISHED = frozenset(JobStatus) - TERMINAL_STATUSES


class Quotas:
    """Quotas of one server: the defaults of its settings, and those that the administrator set for an owner."""

    def __init__(self, engine: sa.Engine, settings: ServerSettings, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._default = Quota(
            max_jobs=settings.quota_jobs, max_bytes=settings.quota_bytes, max_gpu_hours=settings.quota_gpu_hours
        )
        self._clock = clock

    def of(self, owner: str) -> OwnerPublic:
        """Quota and usage of an owner."""
        with read_session(self._engine) as session:
            return self._owner(session, owner)

    def all(self) -> list[OwnerPublic]:
        """Quota and usage of every owner with a token, a dataset or a job."""
        with read_session(self._engine) as session:
            tables = (Token, Dataset, Job)
            owners = sorted(
                {name for table in tables for name in session.scalars(sa.select(col(table.owner)).distinct())}
            )
            return [self._owner(session, owner) for owner in owners]

    def set(self, owner: str, quota: Quota | None) -> OwnerPublic:
        """Set an owner's quota; None: restore the defaults."""
        with write_session(self._engine) as session:
            _lock(session, owner)
            if quota is None:
                session.execute(sa.delete(QuotaRow).where(col(QuotaRow.owner) == owner))
            else:
                session.merge(QuotaRow(owner=owner, **quota.model_dump()))
            record(session, "quota.changed", owner, **({} if quota is None else quota.model_dump()))
            session.flush()
            return self._owner(session, owner)

    def check_job(self, session: Session, owner: str) -> None:
        """Raise QuotaExceeded or StorageQuotaExceeded if the owner may not add a job. For the inserting transaction."""
        _lock(session, owner)  # or two transactions could both take the last slot
        quota = self._quota(session, owner)
        if quota.max_jobs is not None and (jobs := _open_jobs(session, owner)) >= quota.max_jobs:
            raise QuotaExceeded(
                f"{owner} has {jobs} unfinished jobs, and the limit is {quota.max_jobs}; wait for one to finish, or "
                "cancel one"
            )
        self._check_hours(session, owner, quota)
        if quota.max_bytes is not None and (used := _bytes(session, owner)) >= quota.max_bytes:
            raise _too_many_bytes(owner, used, quota.max_bytes, "a job would store more")

    def check_hours(self, session: Session, owner: str) -> None:
        """Raise QuotaExceeded if the owner has used up the GPU hours of this month."""
        self._check_hours(session, owner, self._quota(session, owner))

    def _check_hours(self, session: Session, owner: str, quota: Quota) -> None:
        if quota.max_gpu_hours is not None:
            hours = _hours(session, owner, self._clock())
            if hours >= quota.max_gpu_hours:
                raise QuotaExceeded(
                    f"{owner} has used {hours:.1f} of {quota.max_gpu_hours:g} GPU hours this month; wait for the next "
                    "month, or ask the server's administrator to raise the limit"
                )

    def check_bytes(self, session: Session, owner: str, num_bytes: int) -> None:
        """Raise StorageQuotaExceeded if `num_bytes` more exceed the quota. For the inserting transaction."""
        quota = self._quota(session, owner)
        if quota.max_bytes is None:
            return
        _lock(session, owner)
        used = _bytes(session, owner)
        if used + num_bytes > quota.max_bytes:
            raise _too_many_bytes(owner, used, quota.max_bytes, f"{_size(num_bytes)} more would exceed that")

    def _quota(self, session: Session, owner: str) -> Quota:
        row = session.get(QuotaRow, owner)
        return self._default if row is None else Quota.model_validate(row.model_dump(exclude={"owner"}))

    def _owner(self, session: Session, owner: str) -> OwnerPublic:
        usage = Usage(
            jobs=_open_jobs(session, owner),
            bytes=_bytes(session, owner),
            gpu_hours_this_month=_hours(session, owner, self._clock()),
        )
        return OwnerPublic(owner=owner, quota=self._quota(session, owner), usage=usage)


def _lock(session: Session, owner: str) -> None:
    """Hold the owner's quota and usage until the transaction ends."""
    advisory_lock(session, f"quota of {owner}")


def _too_many_bytes(owner: str, used: int, limit: int, reason: str) -> StorageQuotaExceeded:
    return StorageQuotaExceeded(
        f"{owner} has {_size(used)} stored, and the limit is {_size(limit)}; {reason}: delete jobs or datasets, or ask "
        "the server's administrator to raise the limit"
    )


def _size(number: int) -> str:
    return f"{number} bytes" if number < 100_000 else f"{number / 1e6:,.1f} MB"


def _open_jobs(session: Session, owner: str) -> int:
    query = sa.select(sa.func.count()).where(col(Job.owner) == owner, col(Job.status).in_(UNFINISHED))
    return int(session.execute(query).scalar_one())


def _bytes(session: Session, owner: str) -> int:
    """Bytes of the owner's uploads, datasets, base weights, conversions and stored files of jobs.

    Published files of jobs count as they are, and the others as last measured.

    The same recordings under two names count twice.
    """
    stored = sa.func.coalesce(col(Dataset.stored_bytes), col(Dataset.size)) + col(Dataset.consent_bytes)
    sums = (
        sa.select(sa.func.sum(col(Upload.length))).where(col(Upload.owner) == owner, col(Upload.dataset_id).is_(None)),
        sa.select(sa.func.sum(stored)).where(col(Dataset.owner) == owner, col(Dataset.deleted_at).is_(None)),
        sa.select(sa.func.sum(col(StoredFileRow.bytes))).where(col(StoredFileRow.owner) == owner),
        sa.select(sa.func.sum(col(BaseWeights.size))).where(col(BaseWeights.owner) == owner),
        sa.select(sa.func.sum(col(Conversion.size))).where(col(Conversion.owner) == owner),
    )
    return sum(int(session.execute(query).scalar() or 0) for query in sums)


def _hours(session: Session, owner: str, now: datetime) -> float:
    """Worker hours of the owner's jobs in this calendar month (UTC): ended attempts, and those that run."""
    spent = session.get(SpentHours, (owner, _month(now)))
    query = (
        sa.select(col(Attempt.started_at))
        .join(Job, (col(Job.number) == col(Attempt.job_number)) & (col(Job.token) == col(Attempt.token)))
        .where(col(Job.owner) == owner, col(Job.worker_id).is_not(None))
    )
    running = sum(_hours_between(started, now) for started in session.execute(query).scalars())
    return running + (0.0 if spent is None else spent.hours)


def _hours_between(started: datetime, ended: datetime) -> float:
    """Hours of an attempt that are of the calendar month in which it ended."""
    month = ended.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return max(0.0, (ended - max(started, month)).total_seconds()) / 3600


def _month(now: datetime) -> str:
    return f"{now:%Y-%m}"


def record_spent_hours(session: Session, owner: str, started: datetime, ended: datetime) -> None:
    """Add the hours of an attempt to its owner's. For the transaction that ends it."""
    insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    row = {"owner": owner, "month": _month(ended), "hours": _hours_between(started, ended)}
    statement = insert(SpentHours).values(**row)
    add = {"hours": col(SpentHours.hours) + statement.excluded.hours}
    session.connection().execute(statement.on_conflict_do_update(index_elements=["owner", "month"], set_=add))
