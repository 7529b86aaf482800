"""Authentication: by token or browser session, or as the local user when no token is configured.

Without a token any page in the user's browser could reach a server on loopback. So only requests that name this machine
as their host are served (else a foreign name that resolves to 127.0.0.1 would do), and a write from another page's
origin is refused. A browser's session is a cookie, which comes along with whatever a page makes the browser send: a
write under it must come from our own origin.
"""

import math
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth.principal import ADMIN_SCOPES, Principal, current_principal
from server.auth.throttle import AuthThrottle
from server.auth.tokens import TokenService
from server.database.tables import LOCAL_OWNER
from server.errors import Forbidden, ServerError, TooManyRequests, Unauthorized
from server.http.problem_details import database_unavailable, headers_of, problem_response, status_of
from server.http.rate_limit import RateLimit
from server.settings import LOOPBACK_NAMES, ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LIVENESS_PATH = "/livez"
"""Answered whatever comes along: a probe with an old token, or of a busy address, asks whether the process lives."""
OPEN_PATHS = frozenset({"/", "/new", "/server", "/sign-in", LIVENESS_PATH, "/readyz", "/openapi.json", "/docs"})
"""Served without a token, telling nothing of anyone: pages are shells, and ask `/v1` for what they show."""
OPEN_PREFIXES = ("/jobs/", "/assets/", "/static/")
SIGN_IN = "/v1/session"
COOKIE = "rvc_session"


class AuthMiddleware:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, tokens: TokenService, throttle: AuthThrottle) -> None:
        self._app = app
        self._tokens = tokens
        self._throttle = throttle
        self._needs_token = settings.token is not None
        self._names = LOOPBACK_NAMES | {settings.host.lower()}
        self._requests = RateLimit(settings.requests_per_minute)
        self._writes = RateLimit(settings.writes_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401, 403, 429 or 503."""
        if scope["type"] != "http" or scope["path"] == LIVENESS_PATH:
            await self._app(scope, receive, send)
            return
        path, request_id = scope["path"], scope["state"]["request_id"]
        try:
            principal = await self._principal(scope)
        except ServerError as error:
            status, headers = status_of(error), headers_of(error)
            answer = problem_response(
                status, str(error), path=path, request_id=request_id, code=error.code, headers=headers
            )
            await answer(scope, receive, send)
            return
        except OperationalError as error:
            await database_unavailable(error, path=path, request_id=request_id)(scope, receive, send)
            return
        token = current_principal.set(principal)
        try:
            await self._app(scope, receive, send)
        finally:
            current_principal.reset(token)

    async def _principal(self, scope: Scope) -> Principal | None:
        """The principal; None for what is open to all. Raises Unauthorized, Forbidden, TooManyRequests."""
        headers, path = Headers(scope=scope), scope["path"]
        found = await self._authenticate(scope, headers)
        if found is None:
            if self._needs_token:
                self._check_rate(f"address {address_of(scope)}", scope["method"])
                if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or (path, scope["method"]) == (SIGN_IN, "POST"):
                    return None
                raise Unauthorized("this server needs a token: send it as `Authorization: Bearer <token>`")
            _check_loopback(scope["method"], headers, self._names)
            found = Principal(LOCAL_OWNER, ADMIN_SCOPES)
        else:
            self._check_rate(found.token_id or found.owner, scope["method"])
        return Principal(found.owner, found.scopes, found.token_id, address_of(scope), scope["state"]["request_id"])

    async def _authenticate(self, scope: Scope, headers: Headers) -> Principal | None:
        """The principal of a token or a session; None without either. Raises Unauthorized for one that is not valid."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            secret = secret.strip()
            if scheme.lower() != "bearer" or not secret:
                raise Unauthorized("send the token as `Authorization: Bearer <token>`")
            return await self._require(await run_in_threadpool(self._tokens.authenticate, secret), scope)
        session_id = _cookie(headers)
        if session_id is None:
            return None
        principal = await run_in_threadpool(self._tokens.authenticate_session, session_id)
        if principal is None:
            return None  # an old cookie is no reason to refuse what is open to all
        if (
            scope["method"] not in SAFE_METHODS
            and _netloc(headers.get("origin", "")) != headers.get("host", "").lower()
        ):
            raise Forbidden("a page from elsewhere may not change anything here")
        return principal

    async def _require(self, principal: Principal | None, scope: Scope) -> Principal:
        if principal is not None:
            return principal
        raise await self._throttle.reject(address_of(scope), scope["path"], scope["state"]["request_id"])

    def _check_rate(self, key: str, method: str) -> None:
        """`key`: whose bucket it is, a token's or, where nobody showed one, an address's."""
        wait = self._requests.take(key)
        if not wait and method not in SAFE_METHODS:
            wait = self._writes.take(key)
        if wait:
            raise TooManyRequests(f"too many requests; come again in {math.ceil(wait)} s", wait)


def address_of(scope: Scope) -> str:
    """The address that a request came from; behind a proxy, the one that uvicorn took from `X-Forwarded-For`."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


def _cookie(headers: Headers) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


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
