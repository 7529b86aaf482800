"""Route of a job's events: a list or a stream."""

from typing import Annotated

from fastapi import Query, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.events import EventList, EventType
from server.api.authorization import requires
from server.context import MAX_INTEGER, Context
from server.errors import Refused
from server.http.lists import LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.sse import last_event_id, wants_stream
from server.job_store.serializers import event_public

router = RouterUnderV1(prefix="/jobs", tags=["progress"])


@router.get(
    "/{job_id}/events",
    operation_id="jobs_list_events",
    response_model=EventList,
    responses=documented(
        404,
        422,
        also={
            200: {"content": {"text/event-stream": {}}, "description": "A list or, by `Accept`, a stream of events"},
            204: {"description": "A follower has received all events and need not reconnect"},
        },
    ),
)
@requires(Scope.READ)
def get_events(
    job_id: str,
    request: Request,
    context: Context,
    after: Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="Only events after this number.")] = None,
    limit: LongLimit = 100,
    types: Annotated[
        list[EventType] | None, Query(alias="type", description="Only events of this type, in a list; may be repeated.")
    ] = None,
) -> Response | EventList:
    """List a job's events, oldest first, or stream them.

    With `Accept: text/event-stream`, events are sent as they happen, with their number as id, and `event: end` follows
    when the job has ended. After a lost connection, reconnect with `Last-Event-ID`.
    """
    if not wants_stream(request):
        page = context.job_queries.events(job_id, after or 0, limit + 1 if types else limit, types or ())
        has_more = len(page.events) > limit if types else bool(page.events) and page.events[-1].seq < page.last_seq
        data = [event_public(event, page.job_id, page.name) for event in page.events[:limit]]
        cursor = str(data[-1].seq) if has_more else None
        return EventList(data=data, has_more=has_more, next_cursor=cursor, last_seq=page.last_seq)
    if types:
        raise Refused("a stream has events of every type; leave out `type`, or request a list", parameter="type")
    resumed = last_event_id(request)
    start = after or 0 if resumed is None else resumed
    first = context.job_queries.events(job_id, start, 1)
    if resumed is not None and first.status.is_terminal and not first.events:
        return Response(status_code=204)
    if (
        start > first.last_seq
    ):  # the number is another job's, or the database was restored: the stream would stay silent
        raise Refused(f"the job has {first.last_seq} events; none has the number {start}, so none can follow it")
    return context.sse_responder.response(request, context.event_broadcaster.follow(job_id, start, first.last_seq))
