"""Server-sent events: a stream polls a few times a second, each time in a short transaction.

No connection to the database is held between two polls, and `server.jobs.event_stream` polls once for all followers of
a job. A stream ends with `event: end` when nothing can follow, and without it when the server stops: then the client
reconnects with `Last-Event-ID`. Whether there is anything to stream (404, 204) is decided before the stream begins.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from server.errors import NotFound, Refused

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 1000
MAX_ID_DIGITS = 18
"""Larger numbers are no offset and no event's number, and the database has no room for them."""


@dataclass(frozen=True)
class Batch:
    """The result of one poll."""

    messages: list[bytes] = field(default_factory=list)
    end: str | None = None
    """JSON for the last message, when nothing can follow."""
    has_more: bool = False
    """Poll again at once."""


Poll = Callable[[], Awaitable[Batch]]
"""Finds what is new since it was last called. Runs on the event loop and must not hold it up."""


def in_thread(poll: Callable[[], Batch]) -> Poll:
    """A poll that reads files or the database."""
    return partial(run_in_threadpool, poll)


def message(data: str, an_id: int) -> bytes:
    """One event on the wire."""
    return format_sse_event(data_str=data, id=str(an_id))


def wants_stream(request: Request) -> bool:
    """Whether the caller prefers a stream of events to a plain answer."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def last_event_id(request: Request) -> int | None:
    """Where a follower that lost its connection wants to go on. Refused when it is no number of ours."""
    text = request.headers.get("last-event-id")
    if text is None or not text.strip():
        return None
    text = text.strip()
    if not (text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise Refused("Last-Event-ID is a number that this stream gave before", "header last-event-id")
    return int(text)


class SseResponder:
    """Makes the streams, and ends them all when the server stops."""

    def __init__(self, poll_seconds: float, keep_alive_seconds: float, stopping: threading.Event) -> None:
        self._poll_seconds = poll_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._stopping = stopping

    def response(self, poll: Poll) -> StreamingResponse:
        """The answer that follows `poll`."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._messages(poll), headers=headers, media_type=MEDIA_TYPE)

    async def _messages(self, poll: Poll) -> AsyncIterator[bytes]:
        yield b": here\n"
        prefix = f"retry: {RETRY_MS}\n".encode()  # a message of its own would be an empty one to some readers
        last_sent_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                batch = await poll()
            except NotFound:  # deleted while we looked on
                batch = Batch(end='{"status":"deleted"}')
            except SQLAlchemyError:
                logger.exception("a stream ends early: the database did not answer")
                return
            if batch.messages:
                yield prefix + b"".join(batch.messages)
                prefix = b""
                last_sent_at = time.monotonic()
            if batch.end is not None:
                yield format_sse_event(data_str=batch.end, event="end")
                return
            if batch.has_more:
                continue
            await asyncio.sleep(self._poll_seconds)
            if time.monotonic() - last_sent_at >= self._keep_alive_seconds:
                yield b": still here\n"  # no blank line: some readers take one for a message
                last_sent_at = time.monotonic()
