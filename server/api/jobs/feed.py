"""Route of the events of all jobs: a list or a stream."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.access import Scope
from rvc_train.schemas.events import EventFeed, EventType
from server.api.authorization import OwnerFilter, requires
from server.context import Context
from server.errors import Refused
from server.http.lists import Cursors, LongLimit, Number
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.sse import wants_stream
from server.job_store.serializers import feed_event_public
from server.jobs.event_feed import BEGINNING, EventFilter, Place, events_after, follow, newest_place

router = RouterUnderV1(prefix="/events", tags=["progress"])

_CURSORS: Cursors[tuple[int, int, int]] = Cursors("events", tuple[Number, Number, Number])
MAX_CHOSEN = 100
"""Jobs, or voices, of one request."""


@router.get(
    "",
    operation_id="events_list",
    response_model=EventFeed,
    responses=documented(
        422,
        also={200: {"content": {"text/event-stream": {}}, "description": "A list or, by `Accept`, a stream of events"}},
    ),
)
@requires(Scope.READ)
async def get_events(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[tuple[int, int, int] | None, Depends(_CURSORS)],
    types: Annotated[
        list[EventType] | None, Query(alias="type", description="Only events of this type; may be repeated.")
    ] = None,
    job: Annotated[
        list[str] | None, Query(max_length=MAX_CHOSEN, description="Only events of this job; may be repeated.")
    ] = None,
    voice: Annotated[
        list[str] | None,
        Query(max_length=MAX_CHOSEN, description="Only events of jobs for the voice of this name; may be repeated."),
    ] = None,
    limit: LongLimit = 100,
) -> Response | EventFeed:
    """List the events of all your jobs, oldest first, or stream them.

    With `Accept: text/event-stream`, events are sent as they happen, from now on, or after `after` or `Last-Event-ID`,
    both of which are cursors. The stream has no end. A list begins with the oldest event.
    """
    wanted = EventFilter(owner_filter, job or (), voice or (), types or ())
    if not wants_stream(request):
        start = BEGINNING if after is None else Place(*after)
        page = await run_in_threadpool(events_after, context.engine, start, wanted, limit)
        data = [feed_event_public(row) for row in page.rows]
        found = _CURSORS.page(request, response, data, page.end if page.has_more else None)
        return EventFeed(
            data=data, has_more=found.has_more, next_cursor=found.next_cursor, last_cursor=_CURSORS.encode(page.end)
        )
    newest = await run_in_threadpool(newest_place, context.engine)
    place = await _resumed(request) or after
    start = newest if place is None else Place(*place)
    if start > newest:  # of another server, or the database was restored: the stream would stay silent
        raise Refused("there is no such event here, so none can follow it; leave out Last-Event-ID and `after`")
    version = context.changes.current
    return context.sse_responder.response(request, follow(context.engine, version, start, wanted, _CURSORS.encode))


async def _resumed(request: Request) -> tuple[int, int, int] | None:
    """The place in `Last-Event-ID`. Refused."""
    text = request.headers.get("last-event-id", "").strip()
    try:
        return await _CURSORS(text or None)
    except Refused as error:
        raise Refused("Last-Event-ID must be the id of an event of this stream", header="Last-Event-ID") from error
