"""Authentication: by token or browser session, or as the local user when no token is configured.

Without a token any page in the user's browser could reach a server on loopback. So the `Host` header must name this
machine (or a foreign name that resolves to 127.0.0.1 would work), and writes from another origin are rejected. A
browser's session is a cookie, which the browser adds to requests of any page: writes with it must come from the
server's own origin. Failed authentications are limited for each address and recorded in the audit trail.
"""

import math
from collections.abc import Callable, Hashable
from functools import partial
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth.audit import AuditTrail
from server.auth.principal import ADMIN_SCOPES, Principal, current_principal
from server.auth.recent_principals import RecentPrincipals
from server.auth.tokens import TokenService
from server.database.tables import LOCAL_OWNER
from server.errors import Forbidden, ServerError, TooManyRequests, Unauthorized
from server.http.problem_details import UNAVAILABLE, database_unavailable, headers_of, problem_response, status_of
from server.http.rate_limit import RateLimit
from server.settings import LOOPBACK_NAMES, ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LIVENESS_PATH = "/livez"
"""Served without any check: a probe with an old token, or from a rate-limited address, must still succeed."""
OPEN_PATHS = frozenset({"/", "/new", "/server", "/sign-in", LIVENESS_PATH, "/readyz", "/openapi.json", "/docs"})
"""Served without a token: pages are shells without data, which they fetch from `/v1`."""
OPEN_PREFIXES = ("/jobs/", "/assets/", "/static/")
SIGN_IN = "/v1/session"
COOKIE = "rvc_session"
REJECTION_ENTRIES_PER_MINUTE = 60
"""Limit of audit entries for invalid tokens, over all addresses: guessing from many of them must not fill the disk."""


class AuthThrottle:
    """Limit of failed authentications for each address, recorded in the audit trail."""

    def __init__(self, per_minute: float | None, audit: AuditTrail) -> None:
        """`per_minute`: for each address; None: no limit."""
        self._limit = RateLimit(per_minute)
        self._entries = RateLimit(REJECTION_ENTRIES_PER_MINUTE)
        self._audit = audit

    async def reject(self, address: str, path: str, request_id: str) -> Unauthorized:
        """The error for an invalid token. Raises TooManyRequests above the limit."""
        wait = self._limit.take(_network(address))
        if wait:
            raise TooManyRequests("too many invalid tokens from your address; try again later", wait)
        if not self._entries.take("all"):
            await run_in_threadpool(self._audit.record_rejected_token, address, path, request_id)
        return Unauthorized("invalid token: it is unknown to this server, revoked or expired")


def _network(address: str) -> str:
    """The /64 network of an IPv6 address, because one host has 2**64 addresses; an IPv4 address as it is."""
    return ":".join(address.split(":")[:4]) if ":" in address else address


class AuthMiddleware:
    """ASGI middleware that authenticates requests and limits their rate."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        tokens: TokenService,
        throttle: AuthThrottle,
        version: Callable[[], Hashable],
    ) -> None:
        """`version`: of the database, None if unknown; what was found is found again until it changes."""
        self._app = app
        self._recent = RecentPrincipals(version)
        self._tokens = tokens
        self._throttle = throttle
        self._needs_token = settings.token is not None
        self._names = LOOPBACK_NAMES | {settings.host.lower()}
        self._requests = RateLimit(settings.requests_per_minute)
        self._writes = RateLimit(settings.writes_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 401, 403, 429 or 503."""
        if scope["type"] != "http" or scope["path"] == LIVENESS_PATH:
            await self._app(scope, receive, send)
            return
        path, request_id = scope["path"], scope["state"]["request_id"]
        try:
            principal = await self._principal(scope)
        except ServerError as error:
            status, headers = status_of(error), headers_of(error)
            response = problem_response(
                status, str(error), path=path, request_id=request_id, code=error.code, headers=headers
            )
            await response(scope, receive, send)
            return
        except UNAVAILABLE as error:
            await database_unavailable(error, path=path, request_id=request_id)(scope, receive, send)
            return
        scope["state"]["is_authorized"] = partial(self._is_authorized, Headers(scope=scope))
        token = current_principal.set(principal)
        try:
            await self._app(scope, receive, send)
        finally:
            current_principal.reset(token)

    async def _principal(self, scope: Scope) -> Principal | None:
        """The principal; None for open paths. Raises Unauthorized, Forbidden, TooManyRequests."""
        headers, path = Headers(scope=scope), scope["path"]
        found = await self._authenticate(scope, headers)
        if found is None:
            if self._needs_token:
                self._check_rate(f"address {address_of(scope)}", scope["method"])
                if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or (path, scope["method"]) == (SIGN_IN, "POST"):
                    return None
                raise Unauthorized("this server requires a token: send it as `Authorization: Bearer <token>`")
            _check_loopback(scope["method"], headers, self._names)
            found = Principal(LOCAL_OWNER, ADMIN_SCOPES)
        else:
            self._check_rate(found.token_id or found.owner, scope["method"])
        return Principal(found.owner, found.scopes, found.token_id, address_of(scope), scope["state"]["request_id"])

    async def _authenticate(self, scope: Scope, headers: Headers) -> Principal | None:
        """The principal of a token or a session; None without either. Raises Unauthorized for an invalid token."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            secret = secret.strip()
            if scheme.lower() != "bearer" or not secret:
                raise Unauthorized("send the token as `Authorization: Bearer <token>`")
            return await self._require(await self._recent.find(self._tokens.authenticate, secret), scope)
        session_id = _cookie(headers)
        if session_id is None:
            return None
        principal = await self._recent.find(self._tokens.authenticate_session, session_id)
        if principal is None:
            return None  # open paths are served even with an expired cookie
        if (
            scope["method"] not in SAFE_METHODS
            and _netloc(headers.get("origin", "")) != headers.get("host", "").lower()
        ):
            raise Forbidden("writes from another origin are not allowed")
        return principal

    def _is_authorized(self, headers: Headers) -> bool:
        """Whether the token or session of a request that was let in is still valid. Queries the database."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            return self._tokens.authenticate(secret.strip()) is not None
        session_id = _cookie(headers)
        if session_id is not None and self._tokens.authenticate_session(session_id) is not None:
            return True
        return not self._needs_token

    async def _require(self, principal: Principal | None, scope: Scope) -> Principal:
        if principal is not None:
            return principal
        raise await self._throttle.reject(address_of(scope), scope["path"], scope["state"]["request_id"])

    def _check_rate(self, key: str, method: str) -> None:
        """`key`: the bucket, one per token or, without a token, per address."""
        wait = self._requests.take(key)
        if not wait and method not in SAFE_METHODS:
            wait = self._writes.take(key)
        if wait:
            raise TooManyRequests(f"too many requests; try again in {math.ceil(wait)} s", wait)


def address_of(scope: Scope) -> str:
    """Address of the client; behind a proxy, the one that uvicorn took from `X-Forwarded-For`."""
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
            f"without a token this server is reachable as localhost, 127.0.0.1 and [::1], not as {host!r}; set "
            "RVC_TRAIN_TOKEN to use other host names"
        )
    origin = headers.get("origin")
    if method not in SAFE_METHODS and origin is not None and _netloc(origin) != host.lower():
        raise Forbidden("writes from another origin are not allowed; set RVC_TRAIN_TOKEN and send it")


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
