"""The queue of jobs: its order, and the turns in which a worker takes jobs from it.

Jobs that need the same, with the same priority and owner, are a group. A claim looks at the first job of each group,
found with an index: its cost grows with the number of groups, not with that of jobs.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from server.database.tables import Job
from server.scheduling.shares import gpu_seconds

IS_QUEUED: sa.ColumnElement[bool] = col(Job.status) == sa.literal_column("'queued'")
"""A constant in the statement: with a parameter, a partial index is not used."""
QUEUE_ORDER = (col(Job.priority).desc(), col(Job.number))
"""Order in which the jobs of one owner run."""


class Group(NamedTuple):
    """Queued jobs of one owner that need the same and have the same priority."""

    owner: str
    needs: str
    priority: int
    first: int
    """Number of its oldest job."""


def turns(session: Session, can_run: Callable[[str], bool], now: datetime) -> Iterator[Group]:
    """Groups in the order in which a worker takes a job from them, of those whose needs it meets.

    By priority; among those of equal priority by their owners' running and recent GPU time; then by age. The next one
    is for when a group's jobs are not due, or other workers took them.
    """
    kinds = [needs for needs in _kinds(session) if can_run(needs)]
    below: int | None = None
    while tops := _top_priorities(session, kinds, below):
        priority = max(tops.values())
        groups = [
            Group(owner, needs, priority, first)
            for needs in (needs for needs, top in tops.items() if top == priority)
            for owner, first in _first_of_owners(session, needs, priority)
        ]
        seconds = gpu_seconds(session, (group.owner for group in groups), now)
        yield from sorted(groups, key=lambda group: (seconds[group.owner], group.first))
        below = priority


def _top_priorities(session: Session, kinds: Sequence[str], below: int | None) -> dict[str, int]:
    """Highest priority of the queued jobs of each kind, under `below`; not of kinds without such jobs."""
    found = {}
    for needs in kinds:
        query = sa.select(sa.func.max(col(Job.priority))).where(IS_QUEUED, col(Job.needs) == needs)
        top = session.execute(query if below is None else query.where(col(Job.priority) < below)).scalar()
        if top is not None:
            found[needs] = top
    return found


def _kinds(session: Session) -> Sequence[str]:
    return session.connection().execute(_KINDS).scalars().all()


def _first_of_owners(session: Session, needs: str, priority: int) -> list[tuple[str, int]]:
    rows = session.connection().execute(_FIRST_OF_OWNERS, {"needs": needs, "priority": priority})
    return [(row.owner, row.first) for row in rows]


def numbers_by_needs(session: Session, most: int) -> dict[str, int]:
    """Queued jobs by their needs, each counted up to `most`, so that a long queue takes no longer."""
    rows = session.connection().execute(_NUMBERS_OF_KINDS, {"most": most})
    return {row.needs: row.number for row in rows}


def _distinct(column: str, where: str, first: str = "") -> sa.TextClause:
    """Statement for the values of a column among queued jobs: one search in an index for each, and no scan of it."""
    queued = f"SELECT min({column}) FROM jobs WHERE status = 'queued' {where}"  # noqa: S608 - constants, as below
    return sa.text(
        f"WITH RECURSIVE found({column}) AS ({queued} UNION ALL "  # noqa: S608
        f"SELECT ({queued} AND {column} > found.{column}) FROM found WHERE found.{column} IS NOT NULL) "
        f"SELECT {column} {first} FROM found WHERE {column} IS NOT NULL"
    )


_OF_GROUP = "AND jobs.needs = :needs AND jobs.priority = :priority"
_KINDS = _distinct("needs", "")
_NUMBERS_OF_KINDS = _distinct(
    "needs",
    "",
    ", (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE status = 'queued' AND jobs.needs = found.needs LIMIT :most) "
    "AS counted) AS number",
)
_FIRST_OF_OWNERS = _distinct(
    "owner",
    _OF_GROUP,
    f", (SELECT min(number) FROM jobs WHERE status = 'queued' {_OF_GROUP} AND jobs.owner = found.owner) AS first",  # noqa: S608
)
