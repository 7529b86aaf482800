"""Authentication: by token or browser session. There is no mode without a token.

An address proves nothing: behind a proxy on this machine every request comes from loopback, and with any `Host`. A
browser's session is a cookie, which the browser adds to requests of any page: writes with it must come from the
server's own origin. Failed authentications are limited for each address and recorded in the audit trail.
"""

import ipaddress
import math
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import partial
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rvc_train.local_servers import is_loopback
from rvc_train.schemas.access import Scope as Access
from server.auth.audit import AuditTrail
from server.auth.principal import Principal, current_principal
from server.auth.recent_principals import RecentPrincipals
from server.auth.tokens import LOCAL_TOKEN_ID, TokenService
from server.errors import Forbidden, InvalidToken, ServerError, TooManyRequests, Unauthorized
from server.http.prefix import shown_path
from server.http.problem_details import database_unavailable, problem_of
from server.http.rate_limit import OpenLimit, RateLimit, network_of
from server.settings import ServerSettings
from server.transient_errors import is_database_unavailable

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PROBE_PATHS = frozenset({"/livez", "/readyz"})
"""Served without any check: a probe with an old token, or from a rate-limited address, must still succeed."""
OPEN_PATHS = frozenset({"/", "/new", "/server", "/sign-in", "/openapi.json", "/docs", *PROBE_PATHS})
"""Served without a token: pages are shells without data, which they fetch from `/v1`."""
OPEN_PREFIXES = ("/jobs/", "/voices/", "/shared/", "/v1/shared/", "/assets/", "/static/", "/problems/")
SIGN_IN = "/v1/session"
WORKERS = "/v1/worker/"
"""Requests of workers, which have no limit of their rate: many share a token, and each beats every few seconds."""
UPLOADS = "/v1/uploads/"
LEAST_CHUNK_BYTES = 16 << 10
"""Size from which a chunk of an upload that is received does not count as a request."""
FORWARDED_HOST = "forwarded_host"
"""Key of a request's state: the host that a trusted proxy was called by."""
TOO_MANY_REJECTED = "too many invalid tokens from your address; try again later"
REJECTION_ENTRIES_PER_MINUTE = 60
"""Limit of audit entries for invalid tokens, over all addresses: guessing from many of them must not fill the disk."""


class AuthThrottle:
    """Limit of failed authentications for each address, recorded in the audit trail."""

    def __init__(self, per_minute: float | None, audit: AuditTrail, may_be_valid: Callable[[str], bool]) -> None:
        """`per_minute`: for each address; None: no limit. `may_be_valid`: `TokenService.may_be_valid`."""
        self._may_be_valid = may_be_valid
        self._limit = RateLimit(per_minute)
        self._entries = RateLimit(REJECTION_ENTRIES_PER_MINUTE)
        self._audit = audit

    async def check(self, address: str, secret: str) -> None:
        """Raise TooManyRequests for an address above the limit, without a look-up, unless the token may be valid."""
        wait = self._limit.wait(network_of(address))
        if wait and not await run_in_threadpool(self._may_be_valid, secret):
            raise TooManyRequests(TOO_MANY_REJECTED, wait)

    async def reject(self, address: str, path: str, request_id: str) -> Unauthorized:
        """The error for an invalid token. Raises TooManyRequests above the limit."""
        wait = self._limit.take(network_of(address))
        if wait:
            raise TooManyRequests(TOO_MANY_REJECTED, wait)
        if not self._entries.take("all"):
            await run_in_threadpool(self._audit.record_rejected_token, address, shown_path(path), request_id)
        return InvalidToken("invalid token: it is unknown to this server, revoked or expired")


class _RequestLimits:
    """Limits of all requests and of writes, for each token or for each address."""

    def __init__(self, settings: ServerSettings) -> None:
        self._requests = RateLimit(settings.requests_per_minute)
        self._writes = RateLimit(settings.writes_per_minute)

    def is_reached(self, key: str) -> bool:
        """Whether the next request would be refused."""
        return self._requests.wait(key) > 0

    def take(self, key: str, scope: Scope) -> None:
        """Count a request. Raises TooManyRequests.

        Chunks of uploads are no writes: they are limited by the quota of bytes, the disk and the uploads at the same
        time, because clients choose their size, and give an upload up at the first 429.
        """
        wait = self._requests.take(key)
        if not wait and scope["method"] not in SAFE_METHODS and not _is_chunk(scope):
            wait = self._writes.take(key)
        if wait:
            raise TooManyRequests(f"too many requests; try again in {math.ceil(wait)} s", wait)

    def refunding(self, send: Send, key: str) -> Send:
        """`send`, which takes a request back out of the count when it succeeds."""

        async def send_refunding(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                self._requests.give(key)
            await send(message)

        return send_refunding


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
        """`version`: version of the database, None if unknown; a principal is looked up once for each."""
        self._app = app
        self._recent = RecentPrincipals(version)
        self._tokens = tokens
        self._throttle = throttle
        self._of_tokens, self._of_addresses = _RequestLimits(settings), _RequestLimits(settings)
        most = settings.max_open_requests
        refusal = f"this server answers {most} of your requests at the same time; wait until one has ended"
        self._open = OpenLimit(most, refusal)
        """Open requests of each owner, or each address without a token: slow readers must not use up all open files."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 401, 403, 429 or 503.

        OPTIONS needs no token: browsers send none with it, and its answers are in `/openapi.json` too.
        """
        if scope["type"] != "http" or scope["path"] in PROBE_PATHS or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            await self._serve(scope, receive, send, held)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, held: ExitStack) -> None:
        path, request_id = scope["path"], scope["state"]["request_id"]
        try:
            principal = await self._principal(scope)
            caller = f"address {network_of(address_of(scope))}" if principal is None else principal.owner
            if not _is_of_worker(scope, principal):  # waiting claims are open all the time
                held.enter_context(self._open.hold(caller))
        except ServerError as error:
            await problem_of(error, path=path, request_id=request_id)(scope, receive, send)
            return
        except Exception as error:
            if not is_database_unavailable(error):
                raise
            await database_unavailable(error, path=path, request_id=request_id)(scope, receive, send)
            return
        if principal is not None:
            scope["state"]["caller"] = principal.owner
            if _is_chunk(scope) and _content_length(scope) >= LEAST_CHUNK_BYTES:
                send = self._of_tokens.refunding(send, principal.token_id or principal.owner)
        scope["state"]["is_authorized"] = partial(self._is_authorized, Headers(scope=scope))
        token = current_principal.set(principal)
        try:
            await self._app(scope, receive, send)
        finally:
            current_principal.reset(token)

    async def _principal(self, scope: Scope) -> Principal | None:
        """The principal; None for open paths. Raises Unauthorized, Forbidden, TooManyRequests."""
        headers, path = Headers(scope=scope), scope["path"]
        is_sign_in = (path, scope["method"]) == (SIGN_IN, "POST")
        if is_sign_in and "origin" in headers:
            _check_origin(scope, headers)  # another page would sign its visitor in as someone else
        found = await self._authenticate(scope, headers)
        if found is None:
            self._of_addresses.take(network_of(address_of(scope)), scope)
            if path in OPEN_PATHS or path.startswith(OPEN_PREFIXES) or is_sign_in:
                return None
            raise Unauthorized("this server requires a token: send it as `Authorization: Bearer <token>`")
        is_local = found.token_id == LOCAL_TOKEN_ID and is_loopback(address_of(scope))
        if not is_local and not _is_of_worker(scope, found):
            self._of_tokens.take(found.token_id or found.owner, scope)
        return Principal(found.owner, found.scopes, found.token_id, address_of(scope), scope["state"]["request_id"])

    async def _authenticate(self, scope: Scope, headers: Headers) -> Principal | None:
        """The principal of a token or a session; None without either. Raises Unauthorized for an invalid token."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            secret = secret.strip()
            if scheme.lower() != "bearer" or not secret:
                raise Unauthorized("send the token as `Authorization: Bearer <token>`")
            return await self._require(secret, scope)
        session_id = _cookie(headers, self._tokens.cookie)
        is_limited = self._of_addresses.is_reached(network_of(address_of(scope)))
        if session_id is None or (is_limited and not await run_in_threadpool(self._tokens.may_be_valid, session_id)):
            return None
        principal = await self._recent.find(self._tokens.authenticate_session, session_id)
        if principal is None:
            return None  # open paths are served even with an expired cookie
        if scope["method"] not in SAFE_METHODS:
            _check_origin(scope, headers)
        return principal

    def _is_authorized(self, headers: Headers) -> bool:
        """Whether the token or session of a request that was let in is still valid. Queries the database."""
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            return self._tokens.authenticate(secret.strip()) is not None
        session_id = _cookie(headers, self._tokens.cookie)
        return session_id is not None and self._tokens.authenticate_session(session_id) is not None

    async def _require(self, secret: str, scope: Scope) -> Principal:
        await self._throttle.check(address_of(scope), secret)
        principal = await self._recent.find(self._tokens.authenticate, secret)
        if principal is not None:
            return principal
        raise await self._throttle.reject(address_of(scope), scope["path"], scope["state"]["request_id"])


def address_of(scope: Scope) -> str:
    """Address of the client; behind a proxy, the one that uvicorn took from `X-Forwarded-For`.

    Empty for one that is no IP address: a proxy that does not set the header passes on any text of its client.
    """
    client = scope.get("client")
    address = "" if client is None else str(client[0])
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return ""
    return address


def _is_of_worker(scope: Scope, principal: Principal | None) -> bool:
    is_asked = str(scope["path"]).startswith(WORKERS)
    return is_asked and principal is not None and principal.has_scope(Access.WORK)


def _is_chunk(scope: Scope) -> bool:
    return scope["method"] == "PATCH" and str(scope["path"]).startswith(UPLOADS)


def _content_length(scope: Scope) -> int:
    text = Headers(scope=scope).get("content-length", "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Raise Forbidden unless the header Origin names the server by Host or by the host that a trusted proxy names.

    A page cannot choose either. For a request over https, the origin must be one of https.
    """
    given, host = headers.get("origin", ""), headers.get("host", "")
    forwarded = str(scope["state"].get(FORWARDED_HOST, ""))
    try:
        origin = urlsplit(given)
    except ValueError:
        origin = urlsplit("")
    is_own = origin.netloc != "" and origin.netloc.lower() in {host.lower(), forwarded.lower()}
    if is_own and (origin.scheme == "https" or scope["scheme"] != "https"):
        return
    named, own = _short(given), _short(f"{scope['scheme']}://{forwarded or host}")
    raise Forbidden(
        f"writes from another origin are not allowed: the header Origin is {named}, and this server was called as "
        f"{own}; a proxy before the server must hand on Host with its port, and X-Forwarded-Proto"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
