"""Idempotency keys of every POST: a repeated request is carried out once, and gets the first answer again, for a day.

Submissions and retries store their key in the transaction of the new job (`server.jobs.submission`). For all others
this middleware reserves the key before the request is carried out and stores the answer after it, under the same rules.
A secret is never stored: a request whose answer had one is not carried out again, nor is its answer repeated.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import sqlalchemy as sa
from sqlmodel import col
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth.principal import current_principal
from server.database.engine import write_session
from server.database.tables import IdempotencyKey
from server.errors import AlreadyDone, Refused, ServerError, StillRunning
from server.http.problem_details import problem_of, problem_response
from server.http.threads import to_write
from server.job_store import idempotency
from server.job_store.idempotency import IdempotentRequest, InFlightKeys
from server.middleware.media_types import is_upload

HEADER = "Idempotency-Key"
MAX_KEY = 255
WITHOUT_KEY = re.compile(r"^/v1/(session|jobs:estimate|worker/.+)$")
"""Paths where the header has no effect: a sign-in has no owner yet, an estimate changes nothing, and what a worker
repeats counts once by its numbers."""
WITH_JOB = re.compile(r"^/v1/jobs(/[^/]+/retry)?$")
"""Paths that store the key with the job."""
WITH_SECRET = re.compile(r"^/v1/(tokens|session/code|webhooks(/[^/]+/rotate-secret)?|voices/.+/links)$")
"""Paths whose answers have a secret."""
INTERRUPTED_AFTER = timedelta(minutes=5)
"""Age at which a request without an answer counts as interrupted: the server that served it has stopped."""


@dataclass(frozen=True)
class _Answer:
    """A complete answer."""

    status: int
    headers: list[tuple[str, str]]
    body: str | None
    """None where it had a secret."""

    def response(self) -> Response:
        response = Response(self.body, self.status)
        response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        response.headers["Idempotency-Replayed"] = "true"
        return response


class IdempotencyMiddleware:
    """ASGI middleware, inside of authentication."""

    def __init__(self, app: ASGIApp, engine: sa.Engine, in_flight: InFlightKeys, clock: Callable[[], datetime]) -> None:
        self._app, self._engine, self._in_flight, self._clock = app, engine, in_flight, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" and scope["method"] == "POST" else None
        principal, path = current_principal.get(), scope["path"] if key is not None else ""
        if key is None or principal is None or WITH_JOB.match(path) or WITHOUT_KEY.match(path):
            await self._app(scope, receive, send)
            return
        try:
            if not 1 <= len(key) <= MAX_KEY:
                raise Refused(f"the {HEADER} has {len(key)} characters; use 1 to {MAX_KEY}", header=HEADER)
            is_file = is_upload(path)
            body = b"" if is_file else await _read(receive)
            request = IdempotentRequest(principal.owner, key, _fingerprint(scope, body))
            with self._in_flight.exclusive(principal.owner, key):
                earlier = await to_write(self._reserve, request)
                if earlier is not None:
                    await earlier.response()(scope, receive, send)
                    return
                messages = await self._serve(scope, receive if is_file else _replay(body, receive), request)
            for message in messages:
                await send(message)
        except ServerError as error:
            await problem_of(error, path=path, request_id=scope["state"]["request_id"])(scope, receive, send)
        except HTTPException as error:  # a body that is too large
            response = problem_response(
                error.status_code, error.detail, path=path, request_id=scope["state"]["request_id"]
            )
            await response(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, request: IdempotentRequest) -> list[Message]:
        """Carry out a request and store its answer; an error frees the key, a stop of the server does not."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
        except Exception:
            await to_write(self._finish, request, None)
            raise
        answer = _answer(messages, has_secret=WITH_SECRET.match(scope["path"]) is not None) if messages else None
        with anyio.CancelScope(shield=True):
            await to_write(self._finish, request, answer)
        return messages

    def _reserve(self, request: IdempotentRequest) -> _Answer | None:
        """Reserve the key, or return the answer that an earlier request got. Refused, StillRunning, AlreadyDone."""
        now = self._clock()
        with write_session(self._engine) as session:
            idempotency.lock(session, request)
            row = idempotency.find(session, request, now)
            if row is None:
                idempotency.store(session, request, "", None, now)
                return None
            if row.answer is None and now - row.created_at < INTERRUPTED_AFTER:
                raise StillRunning(f"a request with this {HEADER} is still being served; try again in a moment")
            if row.answer is None:
                raise AlreadyDone(
                    f"the server stopped during the first request with this {HEADER}, which may have been carried out; "
                    "look for its result, and use a new key to send it again"
                )
            stored = _Answer(**json.loads(row.answer))
        if stored.body is None:
            place = next((value for name, value in stored.headers if name == "location"), None)
            raise AlreadyDone(
                f"the first request with this {HEADER} was carried out, and its answer had a secret, which is shown "
                "only once; delete what it made or replace the secret, with a new key",
                place,
            )
        return stored

    def _finish(self, request: IdempotentRequest, answer: _Answer | None) -> None:
        """Store the answer, or free the key when there is none."""
        is_this = sa.and_(col(IdempotencyKey.owner) == request.owner, col(IdempotencyKey.key) == request.key)
        with write_session(self._engine) as session:
            if answer is None or answer.status >= 300:
                session.execute(sa.delete(IdempotencyKey).where(is_this))
            else:
                session.execute(sa.update(IdempotencyKey).where(is_this).values(answer=json.dumps(vars(answer))))


def _answer(messages: list[Message], *, has_secret: bool) -> _Answer:
    start, *rest = messages
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"]]
    body = None if has_secret else b"".join(message.get("body", b"") for message in rest).decode()
    return _Answer(start["status"], headers, body)


async def _read(receive: Receive) -> bytes:
    """The whole body."""
    body, has_more = b"", True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receiver of a body that was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _fingerprint(scope: Scope, body: bytes) -> str:
    """Hash of a request; of a body in JSON, the order of its fields does not count."""
    headers = Headers(scope=scope)
    try:
        payload = json.loads(body) if body else None
    except (ValueError, RecursionError):  # no JSON, or nested deeper than any request
        payload = body.hex()
    # Where bodies are files, which may be larger than the memory, a request is in its headers.
    more = [headers.get("upload-length"), headers.get("upload-metadata")] if is_upload(scope["path"]) else []
    return idempotency.fingerprint(scope["path"], scope["query_string"].decode("latin-1"), payload, more)
