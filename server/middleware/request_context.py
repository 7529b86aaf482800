"""Middleware around every request: id, log line, body limit, security headers, a 500 for internal errors."""

import re
import time

import anyio
import structlog
import uuid6
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rvc_engine.workspace.disk import is_disk_full, is_disk_unavailable
from server.http.prefix import prefix_of, shown_path
from server.http.problem_details import TUS_VERSION, problem_response
from server.metrics import Metrics, StorageError
from server.middleware.media_types import is_upload
from server.uploads.protocol import ADDRESS as UPLOADS

logger = structlog.get_logger(__name__)

MAX_BODY_BYTES = 2**20
"""Limit for the body of every request except uploads."""
MAX_STRANGERS_BODY_BYTES = 2**14
"""Limit for the body of a request without a token, which is a sign-in."""
MAX_LOGGED_PATH = 500
"""Characters of a path in the log. Strangers choose it, and may send 64 KB."""
BODY_SECONDS = 60.0
"""Time for the whole body of every request except uploads, which have limits of their own."""
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
}
DEFAULT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""Content security policy of responses that set none: they are data, and load nothing if shown as a page."""
ONE_YEAR_SECONDS = 365 * 86_400


class BodyTooLarge(HTTPException):
    """A body above its limit. An HTTPException, because FastAPI answers other exceptions here with 400."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes")


class BodyTooSlow(HTTPException):
    """A body that is not complete after `BODY_SECONDS`."""

    def __init__(self) -> None:
        super().__init__(408, f"the body was not complete after {BODY_SECONDS:.0f} s; send the request again")


class RequestContextMiddleware:
    """ASGI middleware, the outermost: sets up the context of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _RequestContext(self._app, scope, receive, send)
        started = time.monotonic()
        try:
            await request.serve()
        finally:
            seconds = time.monotonic() - started
            self._metrics.request(scope["method"], _pattern(scope), request.status, seconds, request.storage_error)


def _pattern(scope: Scope) -> str:
    """The matched route's path pattern, or `none`. Routes of included routers have it without the `/v1` prefix."""
    pattern = str(getattr(scope.get("route"), "path", "none"))
    is_part = pattern != "none" and scope["path"].startswith("/v1/") and not pattern.startswith("/v1/")
    return f"/v1{pattern}" if is_part else pattern


def _plain_cookies(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header; a cookie without backslashes, which ours do not have.

    For a cookie of 60 KB with escapes Python before 3.11.10 and 3.12.6 takes half a minute (CVE-2024-7592), for which
    the event loop stops.
    """
    return (name, value.replace(b"\\", b"")) if name == b"cookie" else (name, value)


class _RequestContext:
    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        scope["headers"] = [_plain_cookies(*header) for header in scope["headers"]]
        given = Headers(scope=scope).get("x-request-id", "")
        self._id = given if _REQUEST_ID.match(given) else uuid6.uuid7().hex
        scope.setdefault("state", {})["request_id"] = self._id
        self.status: int | None = None
        self.storage_error: StorageError | None = None
        self._num_bytes = 0
        self._body_deadline = time.monotonic() + BODY_SECONDS
        self._has_body = True
        """Whether a part of the body may still come."""
        self._is_upload = is_upload(scope["path"])

    async def serve(self) -> None:
        started = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self._id)
        try:
            await self._app(self._scope, self._counted_receive, self._send_with_headers)
        except ClientDisconnect:
            logger.info("client disconnected", method=self._scope["method"], path=shown_path(self._scope["path"]))
        except Exception as error:
            if isinstance(error, OSError) and is_disk_unavailable(error):
                self.storage_error = StorageError.FULL if is_disk_full(error) else StorageError.FAILED
            logger.exception("request failed", method=self._scope["method"], path=shown_path(self._scope["path"]))
            if self.status is not None:
                raise  # the response has begun: only closing the connection marks it as incomplete
            detail = "internal server error; the server's log has the details under this request id"
            await self._respond(500, detail)
        finally:
            if "storage_is_full" in self._scope["state"]:
                self.storage_error = StorageError.FULL
            self._log(time.monotonic() - started)

    async def _respond(self, status: int, detail: str) -> None:
        response = problem_response(status, detail, path=self._scope["path"], request_id=self._id)
        await response(self._scope, self._receive, self._send_with_headers)

    async def _counted_receive(self) -> Message:
        if self._is_upload or not self._has_body:
            return await self._receive()
        with anyio.move_on_after(self._body_deadline - time.monotonic()) as waiting:
            message = await self._receive()
        if waiting.cancelled_caught:
            raise BodyTooSlow
        self._has_body = message["type"] == "http.request" and message.get("more_body", False)
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            limit = MAX_BODY_BYTES if "caller" in self._scope["state"] else MAX_STRANGERS_BODY_BYTES
            if self._num_bytes > limit:
                raise BodyTooLarge(limit)
        return message

    async def _send_with_headers(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._id
            add_security_headers(headers, self._scope["path"], self._scope.get("scheme", "http"))
            if self._scope["path"].startswith(UPLOADS) and self._scope["method"] != "OPTIONS":
                headers["Tus-Resumable"] = TUS_VERSION
            if self.status == 204:
                del headers["Content-Type"]  # FastAPI's: there is no content
            if (prefix := prefix_of(self._scope)) and headers.get("Location", "").startswith("/"):
                headers["Location"] = prefix + headers["Location"]
        await self._send(message)

    def _log(self, seconds: float) -> None:
        level = "debug" if self._scope["path"] in {"/livez", "/readyz"} else "info"
        getattr(logger, level)(
            "request",
            method=self._scope["method"],
            path=shown_path(self._scope["path"])[:MAX_LOGGED_PATH],
            status=self.status,
            ms=round(seconds * 1000, 1),
        )


def add_security_headers(headers: MutableHeaders, path: str, scheme: str) -> None:
    """Complete a response's headers. Responses of the API are private to the caller, so no cache may store them."""
    headers.update(SECURITY_HEADERS)
    headers.setdefault("Content-Security-Policy", DEFAULT_POLICY)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "no-store")
    if path != shown_path(path):
        headers["X-Robots-Tag"] = "noindex"
    if scheme == "https":
        headers["Strict-Transport-Security"] = f"max-age={ONE_YEAR_SECONDS}"
