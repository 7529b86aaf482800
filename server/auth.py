"""Who may speak to the server: the token where there is one, and the rules of loopback where there is none.

Without a token any page in the user's browser could reach a server on loopback. So only requests that name this machine
as their host are served (else a foreign name that resolves to 127.0.0.1 would do), and a write from another page's
origin is refused.
"""

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Forbidden, ServerError, Unauthorized
from server.problems import problem_response, status_of
from server.settings import LOOPBACK_NAMES, ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Served without a token: they tell nothing about anyone's voice."""


class Auth:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        token = settings.token
        self._token_hash = None if token is None else _hash(token.get_secret_value())
        self._names = LOOPBACK_NAMES | {settings.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401 or 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ServerError as error:
            headers = {"WWW-Authenticate": 'Bearer realm="rvc-train"'} if isinstance(error, Unauthorized) else {}
            answer = problem_response(
                status_of(error),
                str(error),
                path=scope["path"],
                request_id=scope["state"]["request_id"],
                code=error.code,
                headers=headers,
            )
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._token_hash is None:
            _check_loopback(scope["method"], headers, self._names)
        elif scope["path"] not in OPEN_PATHS:
            _check_token(headers, self._token_hash)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _check_token(headers: Headers, expected: bytes) -> None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("this server needs a token: send it as `Authorization: Bearer <token>`")
    if not hmac.compare_digest(_hash(token.strip()), expected):
        raise Unauthorized("the token is not this server's; it is the one in RVC_TRAIN_TOKEN where the server runs")


def _check_loopback(method: str, headers: Headers, names: frozenset[str]) -> None:
    host = headers.get("host", "")
    if _hostname(host) not in names:
        raise Forbidden(
            f"without a token this server answers to localhost, 127.0.0.1 and [::1], not to {host!r}; set "
            "RVC_TRAIN_TOKEN to reach it by other names"
        )
    origin = headers.get("origin")
    if method not in SAFE_METHODS and origin is not None and _netloc(origin) != host.lower():
        raise Forbidden("a page from elsewhere may not change anything here; set RVC_TRAIN_TOKEN and send it")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
