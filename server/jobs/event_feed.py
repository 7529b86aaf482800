"""The events of all jobs in one order, as lists and streams: a reader who continues after an event misses none.

On SQLite each transaction that appends events takes the next position: there is one writer at a time. On PostgreSQL
such a counter would make all of them wait for each other, so the position is the transaction's own number there, and
only the events of transactions older than every open one are read: what commits later has a higher position. A stream
reads what is new, and nothing while the database has not changed.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import col
from starlette.concurrency import run_in_threadpool

from server.database.engine import read_connection, write_session
from server.database.tables import Event, EventCounter, Job
from server.http.sse import Batch, Poll, message
from server.job_store.serializers import feed_event_public

BATCH = 500
"""Events of one poll of a stream."""

_COUNTER = sa.select(col(EventCounter.position)).scalar_subquery()
_NEWEST = {
    "sqlite": sa.select(_COUNTER),
    "postgresql": sa.select(_COUNTER + sa.func.txid_snapshot_xmin(sa.func.txid_current_snapshot()) - 1),
}
MAX_EXAMINED = 20_000
"""Events of one query, of those that others caused too: a reader who gets few of millions must not hold a thread for
seconds, nor learn from the time how many there are.
"""
MAX_SECONDS = 0.5
"""Time in which a query that found nothing is followed by the next one."""
_LAST = 2**62
"""Above every job's number and event's number."""


class Place(NamedTuple):
    """A place in the order of all events: after the event with this position, number of the job, and number in it."""

    position: int
    job_number: int
    seq: int


BEGINNING = Place(0, 0, 0)


@dataclass(frozen=True)
class EventFilter:
    """Which events a reader gets; None and empty: all."""

    owner: str | None = None
    job_ids: Sequence[str] = ()
    names: Sequence[str] = ()
    """Names of voices."""
    types: Sequence[str] = ()

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on an event's and its job's rows."""
        # As an expression, so that no index of jobs is taken: few events are new, however many jobs an owner has.
        conditions = [] if self.owner is None else [sa.func.coalesce(col(Job.owner), "") == self.owner]
        chosen = ((Job.id, self.job_ids), (Job.name, self.names), (Event.type, self.types))
        return conditions + [col(column).in_(values) for column, values in chosen if values]


@dataclass(frozen=True)
class FeedPage:
    """Some events with their jobs, oldest first, and the place after them."""

    rows: Sequence[Any]
    """Columns of `Event`, with `job_id` and `name`."""
    end: Place
    has_more: bool


def newest_place(engine: sa.Engine) -> Place:
    """The place after all events so far."""
    with read_connection(engine) as connection:
        return _newest(connection)


def events_after(engine: sa.Engine, place: Place, wanted: EventFilter, limit: int) -> FeedPage:
    """At most `limit` events after a place, oldest first. Where others have very many there may be none, and more."""
    began = time.monotonic()
    while True:
        page = _examine(engine, place, wanted, limit)
        if page.rows or not page.has_more or time.monotonic() - began > MAX_SECONDS:
            return page
        place = page.end


def _examine(engine: sa.Engine, place: Place, wanted: EventFilter, limit: int) -> FeedPage:
    """At most `limit` of the next `MAX_EXAMINED` events."""
    columns = [column for column in Event.__table__.columns if column.name != "data"]  # type: ignore[attr-defined]
    key = sa.tuple_(col(Event.position), col(Event.job_number), col(Event.seq))
    with read_connection(engine) as connection:
        newest = end = _newest(connection)
        positions = sa.select(col(Event.position)).where(col(Event.position) > place.position)
        last = connection.scalar(positions.order_by(col(Event.position)).limit(1).offset(MAX_EXAMINED))
        if last is not None and last < newest.position:
            end = Place(last, _LAST, _LAST)
        query = (
            sa.select(*columns, col(Event.data), col(Job.id).label("job_id"), col(Job.name))
            .join(Job, col(Job.number) == col(Event.job_number))
            .where(col(Event.position) >= place.position, col(Event.position) <= end.position)
            .where(key > sa.tuple_(*map(sa.literal, place)), *wanted.conditions())
            .order_by(col(Event.position), col(Event.job_number), col(Event.seq))
        )
        rows = connection.execute(query.limit(limit + 1)).all()
    if len(rows) <= limit:
        return FeedPage(rows, max(place, end), has_more=end < newest)
    return FeedPage(rows[:limit], place_of(rows[limit - 1]), has_more=True)


def place_of(row: Any) -> Place:
    """The place after an event."""
    return Place(row.position, row.job_number, row.seq)


def align_positions(engine: sa.Engine) -> None:
    """Let new positions be above those of before, also where PostgreSQL was restored into another installation.

    There, the numbers of transactions begin anew. A no-op on SQLite.
    """
    if engine.dialect.name != "postgresql":
        return
    highest = sa.select(sa.func.max(col(Event.position))).scalar_subquery()
    missing = highest - sa.func.txid_current() - col(EventCounter.position)
    with write_session(engine) as session:
        update = sa.update(EventCounter).where(missing >= 0)
        session.connection().execute(update.values(position=col(EventCounter.position) + missing + 1))


def follow(
    engine: sa.Engine,
    version: Callable[[], Hashable],
    start: Place,
    wanted: EventFilter,
    encode: Callable[[Place], str],
) -> Poll:
    """Poll for the events after a place. `version`: of the database, None if unknown. `encode`: a place as a cursor."""
    place, seen, has_begun = start, version(), False

    async def poll() -> Batch:
        nonlocal place, seen, has_begun
        # The first message has an id alone, which no reader takes for an event: who loses the connection before the
        # first event continues here.
        messages = [] if has_begun else [f"id: {encode(start)}\n\n".encode()]
        now = version()
        if has_begun and now is not None and now == seen:
            return Batch()
        page = await run_in_threadpool(events_after, engine, place, wanted, BATCH)
        messages += [message(feed_event_public(row).model_dump_json(), encode(place_of(row))) for row in page.rows]
        place, has_begun = page.end, True
        seen = None if page.has_more else now
        return Batch(messages, has_more=page.has_more)

    return poll


def _newest(connection: sa.Connection) -> Place:
    return Place(connection.execute(_NEWEST[connection.dialect.name]).scalar_one(), _LAST, _LAST)
