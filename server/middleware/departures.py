"""Requests whose client has left: given up while they wait, so that the server serves those who are still there."""

import asyncio
from contextlib import suppress

import anyio
import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.prefix import shown_path

logger = structlog.get_logger(__name__)

READING = frozenset({"GET", "HEAD"})


class Departures:
    """ASGI middleware that cancels a reading request whose connection is closed before its response begins.

    Its place in the queue for a thread is given up; a thread that runs already is left to end. Writing requests are
    never cancelled here, because the client has no sign of whether they were carried out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] not in READING:
            await self._app(scope, receive, send)
            return
        with anyio.CancelScope() as serving:
            watching = asyncio.create_task(_cancel_at_departure(serving, receive))

            async def send_unwatched(message: Message) -> None:
                watching.cancel()  # a response that has begun ends in its own way when the client leaves
                await send(message)

            try:
                await self._app(scope, receive, send_unwatched)
            finally:
                watching.cancel()
        if serving.cancelled_caught:
            logger.info("client left before its response", path=shown_path(scope["path"]))


async def _cancel_at_departure(serving: anyio.CancelScope, receive: Receive) -> None:
    with suppress(HTTPException):  # a body that is too large, which no reading request looks at
        while (await receive())["type"] != "http.disconnect":
            pass
        serving.cancel()
