"""What all parts of the job book stand on: one database, one clock, the hand that writes, and how a job is found."""

from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlmodel import Session, select

from server.errors import NotFound
from server.ledger import Ledger
from server.quotas import Quotas
from server.tables import Job


def utc_now() -> datetime:
    """The present time with its zone."""
    return datetime.now(UTC)


class Book:
    """The base of `server.jobs.JobBook` and its parts. Each call of theirs is one transaction."""

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], datetime] = utc_now,
        *,
        retry_delay_seconds: float = 10,
        max_recoveries: int = 5,
        quotas: Quotas | None = None,
    ) -> None:
        """`clock` gives the present time, with its zone; the two numbers are as in `ServerSettings`.

        `quotas`: what owners may have, for the book that takes jobs in.
        """
        self.engine = engine
        self._clock = clock
        self._ledger = Ledger(clock)
        self._retry_delay_seconds = retry_delay_seconds
        self._max_recoveries = max_recoveries
        self._quotas = quotas


def find_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """The row of a job. NotFound."""
    query = select(Job).where(Job.id == job_id)
    job = session.exec(query.with_for_update() if lock else query).first()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job
