"""Answers that pollers share while nothing has changed, and entity tags for them.

Hundreds of clients ask for the same list or the same job each second. An answer is made once for all of the same caller
rights, address and query, and again after any change of the database, so that none is older than the database at the
moment of its request. A request that finds the answer being made waits for it, under the same condition.
"""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.etags import matches_weakly
from server.http.prefix import prefix_of

PATHS = re.compile(r"^/v1/(jobs|jobs/job_[0-9a-f]{32}|queue)$")
MAX_AGE_SECONDS = 1.0
"""Answers contain times that pass without a change, such as the seconds until a job starts."""
MAX_ANSWERS = 100
MAX_BYTES = 1 << 18
"""Size of the largest body that is kept."""


@dataclass
class _Answer:
    """A complete answer; `task` while it is being made."""

    version: Hashable
    made_at: float = field(default_factory=time.monotonic)
    task: "asyncio.Task[None] | None" = None
    num_waiting: int = 0
    messages: list[Message] = field(default_factory=list)
    route: object = None

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:] if "body" in message)

    @property
    def is_shareable(self) -> bool:
        """Errors are not: they name the request that they belong to."""
        return bool(self.messages) and self.messages[0]["status"] == 200


class SharedAnswers:
    """ASGI middleware, inside of authentication. For a single event loop."""

    def __init__(self, app: ASGIApp, version: Callable[[], Hashable], caller: Callable[[], Hashable]) -> None:
        """`version`: version of the database; None if unknown: nothing is shared then.

        `caller`: properties of the present caller that an answer may depend on.
        """
        self._app, self._version, self._caller = app, version, caller
        self._answers: OrderedDict[Hashable, _Answer] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a GET of a path that many poll; pass on every other request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not PATHS.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = await self._answer(scope, receive, headers)
        scope["route"] = answer.route
        await _send(answer, headers.get("if-none-match"), send)

    async def _answer(self, scope: Scope, receive: Receive, headers: Headers) -> _Answer:
        version, now = self._version(), time.monotonic()
        address = (scope["scheme"], headers.get("host"), prefix_of(scope), scope["path"], scope["query_string"])
        key = (self._caller(), *address)
        found = self._answers.get(key)
        is_fresh = (
            found is not None
            and version is not None
            and found.version == version
            and now - found.made_at < MAX_AGE_SECONDS
        )
        if found is not None and is_fresh:
            await _wait_for(found)
            if found.is_shareable:
                return found
        made = _Answer(version)
        made.task = asyncio.create_task(self._make(made, key, scope, receive))
        if version is not None:
            self._answers[key] = made
            self._answers.move_to_end(key)
            self._drop_old(now)
        await _wait_for(made)
        return made

    def _drop_old(self, now: float) -> None:
        while len(self._answers) > MAX_ANSWERS or now - next(iter(self._answers.values())).made_at > MAX_AGE_SECONDS:
            self._answers.popitem(last=False)

    async def _make(self, answer: _Answer, key: Hashable, scope: Scope, receive: Receive) -> None:
        async def keep(message: Message) -> None:
            answer.messages.append(message)

        inner = {**scope, "headers": [each for each in scope["headers"] if each[0] != b"if-none-match"]}
        try:
            await self._app(inner, receive, keep)
        finally:
            answer.route = inner.get("route")
            answer.task = None
            is_kept = answer.is_shareable and len(answer.body) <= MAX_BYTES
            if not is_kept and self._answers.get(key) is answer:
                del self._answers[key]


async def _wait_for(answer: _Answer) -> None:
    """Wait until the answer is made. It is given up when all who wait for it have left."""
    task = answer.task
    if task is None:
        return
    answer.num_waiting += 1
    try:
        await asyncio.shield(task)
    finally:
        answer.num_waiting -= 1
        if not answer.num_waiting and not task.done():
            answer.version = object()  # no further request may wait for it
            task.cancel()


async def _send(answer: _Answer, if_none_match: str | None, send: Send) -> None:
    """Send the answer, or 304 where the caller has it."""
    start, *rest = answer.messages
    start = {**start, "headers": list(start["headers"])}
    if answer.is_shareable:
        headers = MutableHeaders(scope=start)
        etag = headers.setdefault("ETag", f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"')
        if matches_weakly(if_none_match, etag):
            start["status"] = 304
            for name in ("content-length", "content-type"):
                del headers[name]
            rest = [{"type": "http.response.body", "body": b""}]
    await send(start)
    for message in rest:
        await send(message)
