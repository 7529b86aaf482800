"""Claims that wait for work: an open request holds neither a thread nor a database connection.

All of them share one look at the queue, twice a second while any waits. It counts what is due, up to a few, and as many
of those that wait longest may try to claim it. One that finds nothing for itself waits behind the others; so work that
none of them can take costs a few attempts each time, however many workers wait.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

import structlog
from anyio import move_on_after
from starlette.concurrency import run_in_threadpool

from server.transient_errors import first_line, is_transient

logger = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
MOST_AT_ONCE = 8
"""Claims that try after one look."""


class WaitingClaims:
    """Claims of one kind of work. For a single event loop."""

    def __init__(self, count_due: Callable[[int], int], is_stopping: Callable[[], bool]) -> None:
        """`count_due`: amount of work that is due, at most the given number; called in a thread.

        `is_stopping`: whether the server stops: nothing waits any longer then.
        """
        self._count_due, self._is_stopping = count_due, is_stopping
        self._waiting: OrderedDict[asyncio.Event, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """Number of claims that wait."""
        return len(self._waiting)

    async def turn(self, seconds: float) -> bool:
        """Wait until this claim may try; False when `seconds` are over, or the server stops."""
        if seconds <= 0 or self._is_stopping():
            return False
        event = asyncio.Event()
        self._waiting[event] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_repeatedly())
        try:
            with move_on_after(seconds):
                await event.wait()
        finally:
            self._waiting.pop(event, None)
        return event.is_set() and not self._is_stopping()

    async def _look_repeatedly(self) -> None:
        while self._waiting:
            await asyncio.sleep(LOOK_SECONDS)
            if self._is_stopping():
                number = len(self._waiting)
            else:
                number = await self._look()
            for event in list(self._waiting)[:number]:
                del self._waiting[event]
                event.set()

    async def _look(self) -> int:
        try:
            return await run_in_threadpool(self._count_due, MOST_AT_ONCE)
        except Exception as error:
            if not is_transient(error):
                raise
            with contextlib.suppress(Exception):
                logger.warning("waiting workers cannot look for work", reason=first_line(error))
            return 0
