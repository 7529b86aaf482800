"""Server-sent events: a stream polls a few times a second, each time in a short transaction.

No database connection is held between two polls, and `server.jobs.event_stream` polls once for all followers of a job.
A stream ends with `event: end` when no event can follow, and without it when the server stops or the token is no longer
valid: then the client reconnects with `Last-Event-ID`. A 404 or 204 is decided before the stream begins.

Framing and response class are FastAPI's (`fastapi.sse`). Its keep-alive is not used: it works only for routes that are
generators, which cannot choose JSON by `Accept` or answer 404, has a fixed interval, and ends with a blank line, which
some readers take for an event.
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import structlog
from fastapi.sse import EventSourceResponse, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from server.errors import NotFound, Refused
from server.http.rate_limit import OpenLimit
from server.http.threads import on_disk

logger = structlog.get_logger(__name__)

RETRY_MS = 1000
_QUALITY = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)")
MAX_ID_DIGITS = 18
"""Larger numbers are neither offsets nor event numbers, and overflow the database's integers."""


@dataclass(frozen=True)
class Batch:
    """Result of one poll."""

    messages: list[bytes] = field(default_factory=list)
    end: str | None = None
    """JSON of the last message, when no other can follow."""
    has_more: bool = False
    """Poll again at once."""


Poll = Callable[[], Awaitable[Batch]]
"""Returns the messages since its last call. Runs on the event loop and must not block it."""


def in_thread(poll: Callable[[], Batch]) -> Poll:
    """A poll that reads files."""
    return partial(on_disk, poll)


def message(data: str, an_id: int | str) -> bytes:
    """One event in wire format."""
    return format_sse_event(data_str=data, id=str(an_id))


def wants_stream(request: Request) -> bool:
    """Whether the caller accepts a stream of events, and JSON not more."""
    return prefers(request, "text/event-stream")


def prefers(request: Request, media_type: str) -> bool:
    """Whether the caller accepts a media type, and JSON not more (the weights `q` of RFC 9110, 12.5.1)."""
    weights = accepted(",".join(request.headers.getlist("accept")))
    return weights.get(media_type, 0) > 0 and weights[media_type] >= weights.get("application/json", 0)


def accepted(header: str) -> dict[str, float]:
    """Weight of each value of a header such as Accept or Accept-Encoding; one without a valid weight has 1."""
    weights = {}
    for item in header.split(","):
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        found = [_QUALITY.fullmatch(parameter) for parameter in parameters]
        weights[media_range] = next((float(match[1]) for match in found if match is not None), 1.0)
    return weights


def last_event_id(request: Request) -> int | None:
    """Id of the last event that a reconnecting client received. Raises Refused when it is not a valid id."""
    text = request.headers.get("last-event-id")
    if text is None or not text.strip():
        return None
    text = text.strip()
    if not (text.isdecimal() and len(text) <= MAX_ID_DIGITS):
        raise Refused("Last-Event-ID must be the id of an event of this stream", header="Last-Event-ID")
    return int(text)


class _LimitedResponse(EventSourceResponse):
    """A stream that counts from its first byte until it ends."""

    def __init__(
        self, slot: AbstractContextManager[None], messages: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        super().__init__(messages, headers=headers)
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            await super().__call__(scope, receive, send)


class SseResponder:
    """Responses that stream events until the server stops."""

    def __init__(
        self, poll_seconds: float, keep_alive_seconds: float, stopping: threading.Event, limit: OpenLimit
    ) -> None:
        """`limit`: for the streams of each caller."""
        self._limit = limit
        self._poll_seconds = poll_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._stopping = stopping

    def response(self, request: Request, poll: Poll) -> EventSourceResponse:
        """A response that streams the messages of `poll` while the request's token is valid.

        The response raises TooManyRequests before it begins when the caller has too many of them.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        slot = self._limit.hold(request.state.caller)
        return _LimitedResponse(slot, self._messages(request.state.is_authorized, poll), headers=headers)

    async def _messages(self, is_authorized: Callable[[], bool], poll: Poll) -> AsyncIterator[bytes]:
        yield b": here\n"
        prefix = f"retry: {RETRY_MS}\n".encode()  # on its own, some readers take it for an empty event
        last_sent_at = authorized_at = time.monotonic()
        while not self._stopping.is_set():
            try:
                if time.monotonic() - authorized_at >= self._keep_alive_seconds:
                    if not await run_in_threadpool(is_authorized):
                        return
                    authorized_at = time.monotonic()
                batch = await poll()
            except NotFound:  # the job was deleted during the stream
                batch = Batch(end='{"status":"deleted"}')
            except SQLAlchemyError:
                logger.exception("stream ended early: the database is unavailable")
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
                yield b": still here\n"  # no blank line: some readers take one for an event
                last_sent_at = time.monotonic()
