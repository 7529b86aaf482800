"""HEAD for every address that has GET (RFC 9110, 9.3.2)."""

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_HEAD = "rvc_train.is_head"
"""Key in the scope of such a GET."""


class HeadAsGet:
    """ASGI middleware that serves HEAD as a GET that ends after its headers, so that streams and zips make no body.

    `Range` is dropped: it is defined for GET only. Uploads have a HEAD of their own.
    """

    def __init__(self, app: ASGIApp, except_under: str) -> None:
        """`except_under`: path below which HEAD is passed on."""
        self._app = app
        self._except_under = except_under

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].startswith(self._except_under):
            await self._app(scope, receive, send)
            return
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        inner = {**scope, "method": "GET", "headers": headers, IS_HEAD: True}
        try:
            with anyio.CancelScope() as serving:

                async def send_headers(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        await send(message)
                        await send({"type": "http.response.body", "body": b""})
                        serving.cancel()

                await self._app(inner, receive, send_headers)
        finally:
            scope["route"] = inner.get("route")
