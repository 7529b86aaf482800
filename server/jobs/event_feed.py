"""Streams of the events of all jobs: each reads what is new, and nothing while the database has not changed."""

from collections.abc import Callable, Hashable

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from server.http.sse import Batch, Poll, message
from server.job_store.feed import EventFilter, Place, events_after, place_of
from server.job_store.serializers import feed_event_public

BATCH = 500
"""Events of one poll."""


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
