"""Thinning of the progress and metric events of jobs that have ended. The metrics table keeps every value.

One event of each type stays for each attempt, stage and epoch: the last. Numbers do not change, so a stream of a
thinned job has gaps, and a follower may continue after a number that is gone.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.events import EventType
from server.database.derived_tables import UnthinnedJob
from server.database.engine import read_session, write_session
from server.database.tables import Event, Job

GRACE = timedelta(minutes=10)
"""Time after a job's end in which its followers, and those that reconnect, still get every event."""
CHUNK = 2000
"""Events of one transaction, which other writers wait for."""
MAX_JOBS = 200
"""Jobs of one run."""
_THINNED = (EventType.PROGRESS, EventType.METRIC)


def thin_events(engine: sa.Engine, clock: Callable[[], datetime], grace: timedelta = GRACE) -> int:
    """Thin the jobs that ended longer than `grace` ago, the oldest first; returns the number of events deleted."""
    query = (
        sa.select(col(UnthinnedJob.job_number))
        .join(Job, col(Job.number) == col(UnthinnedJob.job_number))
        .where(col(Job.finished_at) < clock() - grace)
        .order_by(col(UnthinnedJob.job_number))
        .limit(MAX_JOBS)
    )
    with read_session(engine) as session:
        numbers = session.connection().execute(query).scalars().all()
    return sum(_thin(engine, number) for number in numbers)


def _thin(engine: sa.Engine, number: int) -> int:
    of_kind = (col(Event.job_number) == number, col(Event.type).in_(_THINNED))
    groups = (col(Event.type), col(Event.attempt), *(col(Event.data)[name].as_string() for name in ("stage", "epoch")))
    with read_session(engine) as session:
        kept = set(
            session.connection()
            .execute(sa.select(sa.func.max(col(Event.seq))).where(*of_kind).group_by(*groups))
            .scalars()
        )
        query = sa.select(col(Event.seq)).where(*of_kind).order_by(col(Event.seq))
        gone = [seq for seq in session.connection().execute(query).scalars() if seq not in kept]
    for start in range(0, len(gone), CHUNK):
        with write_session(engine) as session:
            part = col(Event.seq).in_(gone[start : start + CHUNK])
            session.connection().execute(sa.delete(Event).where(col(Event.job_number) == number, part))
    with write_session(engine) as session:
        session.connection().execute(sa.delete(UnthinnedJob).where(col(UnthinnedJob.job_number) == number))
    return len(gone)
