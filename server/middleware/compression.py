"""Compression of text: pages, scripts, JSON and parts of logs, for callers that accept gzip.

Left as they are: streams of events, answers with ranges, and files whose bytes have a digest or are compressed already.
An entity tag stays the same: it names the resource's state, which `If-Match` compares, and no compressed answer offers
ranges, where the bytes would matter.
"""

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.sse import accepted

MIN_BYTES = 600
LEVEL = 5
"""Level of zlib: a page's script of 145 kB in about 4 ms; higher levels save a few per cent more."""
TEXT = frozenset(
    {
        "application/json",
        "application/problem+json",
        "image/svg+xml",
        "text/css",
        "text/html",
        "text/javascript",
        "text/plain",
    }
)


class Compression:
    """ASGI middleware that compresses answers of the media types in `TEXT`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and _is_gzip_accepted(Headers(scope=scope)):
            await _TextResponder(self._app, MIN_BYTES, LEVEL)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_gzip_accepted(headers: Headers) -> bool:
    weights = accepted(",".join(headers.getlist("accept-encoding")))
    return weights.get("gzip", weights.get("*", 0)) > 0


class _TextResponder(GZipResponder):
    """Response of which only text without ranges is compressed."""

    async def send_with_compression(self, message: Message) -> None:
        message = dict(message)  # it is changed below, and other requests may share it
        if message["type"] == "http.response.start":
            message["headers"] = list(message.get("headers", []))
            headers = Headers(raw=message["headers"])
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            is_left = media_type not in TEXT or "accept-ranges" in headers or message["status"] != 200
            self.exclude_content_types = (media_type,) if is_left else ()
        await super().send_with_compression(message)
