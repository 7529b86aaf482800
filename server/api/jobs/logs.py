"""Route of a job's log: plain text with ranges, or a stream of lines."""

import json
from pathlib import Path
from typing import Annotated

from fastapi import Query, Request, Response

from rvc_train.schemas.access import Scope
from server.api.authorization import requires
from server.context import AppContext, Context
from server.errors import RangeNotSatisfiable, Refused
from server.http.downloads import Span, deleted_as_not_found, file_response, span_response
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.sse import Batch, in_thread, last_event_id, message, wants_stream
from server.results.logs import log_size, read_lines, tail_offset

router = RouterUnderV1(prefix="/jobs", tags=["progress"])
TEXT = "text/plain; charset=utf-8"


@router.get(
    "/{job_id}/logs",
    operation_id="jobs_get_log",
    response_class=Response,
    responses=documented(
        404,
        416,
        422,
        also={
            200: {"content": {"text/plain": {}, "text/event-stream": {}}, "description": "The log"},
            204: {"description": "A follower has received the whole log and need not reconnect"},
            206: {"description": "The requested range", "content": {"text/plain": {}}},
        },
    ),
)
@requires(Scope.READ)
def get_logs(
    job_id: str,
    request: Request,
    context: Context,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000, description="Only the last lines.")] = None,
    offset: Annotated[int | None, Query(ge=0, description="Only what follows after this number of bytes.")] = None,
    follow: Annotated[bool, Query(description="A stream of lines, also without `Accept: text/event-stream`.")] = False,
) -> Response:
    """Get the job's log over all attempts, as plain text or as a stream of lines.

    With `tail` or `offset`, the header `X-Log-End` is the offset at which to continue.

    With `follow=true` or `Accept: text/event-stream`, lines are sent as they are written, one per message, with the
    offset after the line as id; `event: end` follows when the job has ended.
    """
    if tail is not None and offset is not None:
        raise Refused("use either tail or offset, not both", parameter="tail")
    status = context.job_queries.status(job_id)
    path = context.storage.fetch(context.storage.job_log(job_id))
    size = log_size(path)
    if follow or wants_stream(request):
        resumed = last_event_id(request)
        if resumed is not None and status.is_terminal and resumed >= size:
            return Response(status_code=204)
        start = resumed if resumed is not None else _start(path, tail, offset)
        return context.sse_responder.response(request, in_thread(_LogFollower(context, job_id, path, start).poll))
    if tail is None and offset is None:
        return file_response(request, path, size, media_type=TEXT)
    start = _start(path, tail, offset)
    if start > size:
        raise RangeNotSatisfiable(f"the log has {size} bytes; nothing follows after {start}", size)
    headers = {"X-Log-End": str(size)}
    return span_response(path, Span(start, size), headers=headers, media_type=TEXT)


def _start(path: Path, tail: int | None, offset: int | None) -> int:
    with deleted_as_not_found():
        return tail_offset(path, tail) if tail is not None else offset or 0


class _LogFollower:
    """Position of one follower in a job's log."""

    def __init__(self, context: AppContext, job_id: str, path: Path, start: int) -> None:
        self._queries, self._job_id, self._path = context.job_queries, job_id, path
        self._position = start
        self._was_finished = False

    def poll(self) -> Batch:
        status = self._queries.status(self._job_id)  # before the file: what is written before the end is not missed
        lines = read_lines(self._path, self._position, is_finished=self._was_finished)
        if lines:
            self._position = lines[-1].end
            return Batch([message(line.text, line.end) for line in lines], has_more=True)
        # One more poll after the end: a worker may write its last line just after its last write to the database.
        end = json.dumps({"status": status}) if self._was_finished else None
        self._was_finished = status.is_terminal
        return Batch([], end)
