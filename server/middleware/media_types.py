"""Media types of request bodies: what no route reads is refused before its bytes are received (RFC 9110, 15.5.16)."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnsupportedMedia
from server.http.problem_details import problem_of

_FILE = re.compile(r"^/v1/(datasets/.+|voices/.+/conversions)/content$")
_SENT = re.compile(r"^/v1/worker/(leases|conversions)/[^/]+/files/[^/]+$")
_CHUNK = re.compile(r"^/v1/uploads(/[^/]*)?/?$")
_JSON = re.compile(r"^application/([^;]+\+)?json$")
_FORM = re.compile(r"^(multipart/.*|application/x-www-form-urlencoded)$")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def is_upload(path: str) -> bool:
    """Whether bodies at this path are files, or chunks of them; all others are JSON."""
    return any(pattern.match(path) for pattern in (_FILE, _CHUNK, _SENT))


def has_body(headers: Headers) -> bool:
    """Whether a request has a body of at least one byte, by `Content-Length` and `Transfer-Encoding`."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class BodyTypes:
    """ASGI middleware that responds with 415 to bodies that no route reads: forms, encoded ones, other media types."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 415."""
        fault = _fault(scope["path"], Headers(scope=scope)) if _may_have_body(scope) else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        request_id = scope.get("state", {}).get("request_id", "")
        response = problem_of(UnsupportedMedia(fault), path=scope["path"], request_id=request_id)
        response.headers["Accept-Encoding"] = "identity"
        await response(scope, receive, send)


def _may_have_body(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] in _WITH_BODY and scope["path"].startswith("/v1/")


def _fault(path: str, headers: Headers) -> str | None:
    """A sentence on what to send instead; None for a body that can be read, and without a body."""
    if not has_body(headers):
        return None
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        return f"a body with Content-Encoding: {encoding} is not decoded; send it without that encoding"
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _FILE.match(path) and _FORM.match(media_type):
        return (
            f"a form ({media_type}) is not read here; send the bytes of the file themselves as the body, with the "
            "header Content-Type: application/octet-stream (with curl: -T FILE)"
        )
    if is_upload(path) or _JSON.match(media_type):  # a route checks the media type of chunks
        return None
    if not media_type:
        return "the body has no media type; send JSON with the header Content-Type: application/json"
    return f"{media_type} is not read here; send JSON with the header Content-Type: application/json"
