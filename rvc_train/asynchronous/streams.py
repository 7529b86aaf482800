"""Following a server-sent event stream through lost connections and restarts of the server."""

import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace

import httpx
from httpx_sse import ServerSentEvent, SSEError, aconnect_sse
from pydantic import ValidationError

from rvc_train.errors import ApiError, ClientError, ConnectionFailed
from rvc_train.http.problems import error_of
from rvc_train.http.transport import HTTP_RETRIES, connection_failed, is_transient
from rvc_train.schemas.events import EventPublic

TIMEOUT = httpx.Timeout(10, read=60)
"""A stream without a byte for 60 s is dead: the server sends a comment every 15 s."""
RECONNECT_SECONDS = 600
"""Default time to reconnect while the server does not answer."""

OnWait = Callable[[str], None]
"""Called with a sentence when the connection is lost, once until the next message."""


class _StreamClosed(Exception):
    """The stream ended without its `end` event."""


def _is_interruption(error: BaseException) -> bool:
    """Whether to reconnect; 500 too, which a server or a proxy may answer while it starts."""
    is_internal = isinstance(error, ApiError) and error.problem.status == httpx.codes.INTERNAL_SERVER_ERROR
    return is_internal or is_transient(error) or isinstance(error, SSEError | _StreamClosed)


_STREAM_RETRIES = replace(HTTP_RETRIES, is_transient=_is_interruption, max_attempts=math.inf, max_pause_seconds=10)


async def follow(
    http: httpx.AsyncClient,
    path: str,
    last_id: str | None = None,
    params: Mapping[str, str | Sequence[str]] | None = None,
    on_wait: OnWait | None = None,
    reconnect_seconds: float = RECONNECT_SECONDS,
) -> AsyncGenerator[ServerSentEvent, None]:
    """The stream's events up to its `end`, each once, through any number of connections.

    A new connection resumes after the last received id. Raises ConnectionFailed when there was no answer for
    `reconnect_seconds`, and ApiError for an error that reconnecting does not change.
    """
    num_messages = 0  # received so far: progress, in terms of retries

    def report_wait(error: BaseException) -> None:
        if on_wait is not None:
            on_wait(f"connection lost ({error or type(error).__name__}); reconnecting")

    policy = replace(_STREAM_RETRIES, max_seconds=reconnect_seconds)
    attempts = policy.retrying_async(progress=lambda: num_messages, on_wait=report_wait)
    try:
        async for attempt in attempts:
            headers = {} if last_id is None else {"Last-Event-ID": last_id}
            with attempt:
                async with aconnect_sse(http, "GET", path, headers=headers, params=params, timeout=TIMEOUT) as source:
                    if source.response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if source.response.is_error:
                        await source.response.aread()
                        raise error_of(source.response)
                    async for message in source.aiter_sse():
                        num_messages += 1
                        if message.event == "end":
                            return
                        if not message.data and message.id in {"", last_id}:
                            continue  # a keep-alive comment or a `retry` field: no event
                        if message.id:
                            last_id = message.id
                        yield message
                    raise _StreamClosed("the server closed the stream")
    except (ApiError, httpx.TransportError, SSEError, _StreamClosed) as error:
        if not _is_interruption(error):
            if isinstance(error, httpx.TransportError):
                raise connection_failed(error, http.base_url) from error
            raise
        raise ConnectionFailed(
            f"the server has not answered for {reconnect_seconds:.0f} s ({error or type(error).__name__}); "
            "check that it is running"
        ) from error


def chosen_events(
    types: Sequence[str], job_ids: Sequence[str], names: Sequence[str], owner: str | None
) -> dict[str, str | Sequence[str]]:
    """Query of the choices among all events."""
    given = {"type": types, "job": job_ids, "voice": names, "owner": owner}
    return {name: value for name, value in given.items() if value}


def event_of(message: ServerSentEvent) -> EventPublic:
    """The event in a message. Raises ClientError."""
    try:
        return EventPublic.model_validate_json(message.data)
    except ValidationError as error:
        raise ClientError(f"the server sent an event that this client cannot read: {error}") from error
