"""Principals found a moment ago: pollers authenticate without a query while the database has not changed."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from server.auth.principal import Principal

MAX_AGE_SECONDS = 1.0
"""Age at which a token that expires is looked up again; one that is revoked is a change of the database."""
MAX_ENTRIES = 1000


@dataclass(frozen=True)
class _LookUp:
    version: Hashable
    begun_at: float
    task: "asyncio.Task[Principal | None]"


class RecentPrincipals:
    """Look-ups by function and secret, shared by requests that arrive together. For a single event loop."""

    def __init__(self, version: Callable[[], Hashable]) -> None:
        """`version`: version of the database; None if unknown: every request is looked up then."""
        self._version = version
        self._look_ups: OrderedDict[Hashable, _LookUp] = OrderedDict()

    async def find(self, look_up: Callable[[str], Principal | None], secret: str) -> Principal | None:
        """Result of `look_up`, run in a thread, for the secret; the last one if the database has not changed since."""
        version, now, key = self._version(), time.monotonic(), (look_up, secret)
        if version is None:
            return await run_in_threadpool(look_up, secret)
        found = self._look_ups.get(key)
        if found is None or found.version != version or now - found.begun_at > MAX_AGE_SECONDS:
            found = _LookUp(version, now, asyncio.create_task(run_in_threadpool(look_up, secret)))
            self._look_ups[key] = found
            self._look_ups.move_to_end(key)
            if len(self._look_ups) > MAX_ENTRIES:
                self._look_ups.popitem(last=False)
        try:
            principal = await asyncio.shield(found.task)  # a client that leaves does not end it for others
        except Exception:
            self._forget(key, found)
            raise
        if principal is None:
            self._forget(key, found)
        return principal

    def _forget(self, key: Hashable, look_up: _LookUp) -> None:
        if self._look_ups.get(key) is look_up:
            del self._look_ups[key]
