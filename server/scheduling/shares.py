"""Shares of owners: GPU time of what runs, and of what ended, of which half is forgotten each day."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from server.database.tables import Attempt, Conversion, Job, OwnerShare, Worker

HALF_LIFE = timedelta(days=1)
_SHARE: tuple[Any, ...] = (OwnerShare.owner, OwnerShare.gpu_seconds, OwnerShare.as_of)
LEAST_RUNNING_SECONDS = 60.0
"""Least time that a running job counts: several claims at once are then spread over the owners too."""


def add_gpu_seconds(session: Session, owner: str, seconds: float, now: datetime) -> None:
    """Add time of an ended attempt to its owner's. For the transaction that ends it."""
    share = session.get(OwnerShare, owner, with_for_update=True, populate_existing=True)
    if share is not None:
        share.gpu_seconds, share.as_of = _faded(share, now) + seconds, now
        session.flush()
        return
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(OwnerShare).values(owner=owner, gpu_seconds=seconds, as_of=now)
    # Where another transaction has inserted the row meanwhile, its time is nearly the same.
    add = {"gpu_seconds": col(OwnerShare.gpu_seconds) + statement.excluded.gpu_seconds}
    session.connection().execute(statement.on_conflict_do_update(index_elements=["owner"], set_=add))


def gpu_seconds(session: Session, owners: Iterable[str], now: datetime) -> dict[str, float]:
    """Running and recent GPU seconds of each of the owners."""
    found = dict.fromkeys(owners, 0.0)
    if len(found) < 2:  # without others there is nothing to compare
        return found
    shares = sa.select(*_SHARE)  # rows: making objects of a thousand takes ten times as long
    if len(found) <= 500:  # few enough to name them
        shares = shares.where(col(OwnerShare.owner).in_(found))
    for share in session.execute(shares):
        if share.owner in found:
            found[share.owner] += _faded(share, now)
    jobs = (
        sa.select(col(Job.owner), col(Attempt.started_at), col(Worker.num_gpus))
        .join(Attempt, (col(Attempt.job_number) == col(Job.number)) & (col(Attempt.token) == col(Job.token)))
        .join(Worker, col(Worker.id) == col(Job.worker_id))
        .where(col(Job.worker_id).is_not(None))
    )
    conversions = sa.select(col(Conversion.owner), col(Conversion.started_at), sa.literal(1)).where(
        col(Conversion.status) == "running"
    )
    for query in (jobs, conversions):
        for owner, started_at, num_gpus in session.execute(query):
            if owner in found and started_at is not None:
                seconds = max(LEAST_RUNNING_SECONDS, (now - started_at).total_seconds())
                found[owner] += seconds * max(1, num_gpus or 1)
    return found


def _faded(share: OwnerShare | sa.Row[Any], now: datetime) -> float:
    age = max(timedelta(), now - share.as_of)  # a clock that was set back makes nothing grow
    return share.gpu_seconds * float(0.5 ** (age / HALF_LIFE))
