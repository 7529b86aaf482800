"""A job's log: plain text with ranges, or a stream of lines."""

import json
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from rvc_train.schemas.access import Scope
from server.api.authorization import requires
from server.context import AppContext, Context
from server.errors import RangeNotSatisfiable, Refused
from server.http.downloads import Span, file_response, span_response
from server.http.problem_details import documented
from server.http.sse import Batch, Poll, in_thread, last_event_id, message, wants_stream
from server.results.logs import log_size, read_lines, tail_offset

router = APIRouter(prefix="/jobs", tags=["progress"])
TEXT = "text/plain; charset=utf-8"


@router.get(
    "/{job_id}/logs",
    response_class=Response,
    responses=documented(
        404,
        416,
        422,
        also={
            200: {"content": {"text/plain": {}, "text/event-stream": {}}, "description": "The log"},
            204: {"description": "A follower has seen everything: don't come back"},
            206: {"description": "The range asked for", "content": {"text/plain": {}}},
        },
    ),
)
@requires(Scope.READ)
def get_logs(
    job_id: str,
    request: Request,
    context: Context,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines.")] = None,
    offset: Annotated[int | None, Query(ge=0, description="Only what comes behind so many bytes.")] = None,
    follow: Annotated[bool, Query(description="A stream of lines, also without `Accept: text/event-stream`.")] = False,
) -> Response:
    """The job's whole log over all attempts, as plain text.

    With `tail` or `offset`, `X-Log-End` tells the offset behind what was sent: follow from there.

    With `follow=true` or `Accept: text/event-stream` its lines come as they are written, one a message, with the offset
    behind the line as id; `event: end` comes when the job has ended.
    """
    if tail is not None and offset is not None:
        raise Refused("give tail or offset, not both", "?tail")
    status = context.job_queries.status(job_id)
    path = context.storage.job_log(job_id)
    size = log_size(path)
    if follow or wants_stream(request):
        resumed = last_event_id(request)
        if resumed is not None and status.is_terminal and resumed >= size:
            return Response(status_code=204)
        start = resumed if resumed is not None else _start(path, tail, offset)
        return context.sse_responder.response(_poller(context, job_id, path, start))
    if tail is None and offset is None:
        return file_response(request, path, size, media_type=TEXT)
    start = _start(path, tail, offset)
    if start > size:
        raise RangeNotSatisfiable(f"the log has {size} bytes; there is nothing behind {start}", size)
    headers = {"Accept-Ranges": "bytes", "X-Log-End": str(size)}
    return span_response(request, path, Span(start, size), headers=headers, media_type=TEXT)


def _start(path: Path, tail: int | None, offset: int | None) -> int:
    return tail_offset(path, tail) if tail is not None else offset or 0


def _poller(context: AppContext, job_id: str, path: Path, start: int) -> Poll:
    place = start
    was_finished = False

    def poll() -> Batch:
        nonlocal place, was_finished
        status = context.job_queries.status(job_id)  # before the file: what is written before the end is not missed
        lines = read_lines(path, place, is_finished=was_finished)
        if lines:
            place = lines[-1].end
            return Batch([message(line.text, line.end) for line in lines], has_more=True)
        # One poll more after the end: a worker may write its last line just after its last write to the database.
        end = json.dumps({"status": status}) if was_finished else None
        was_finished = status.is_terminal
        return Batch([], end)

    return in_thread(poll)
