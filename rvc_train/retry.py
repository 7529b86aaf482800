"""Retries: one policy for HTTP requests, transfers, event streams and the worker's database calls."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tenacity

FIRST_PAUSE_SECONDS = 0.4
"""Upper bound of the first pause; it doubles with each failure."""


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds and pauses of retries. Pauses have a random length, so that many clients do not return at one moment."""

    is_transient: Callable[[BaseException], bool]
    """Whether another attempt may succeed after this error; every other error is raised at once."""
    requested_pause: Callable[[BaseException], float | None] = lambda error: None
    """Seconds that the other side asks to wait, such as in a `Retry-After` header; None: a random pause."""
    max_attempts: float = math.inf
    """Attempts in a row without progress; after the last one its error is raised."""
    max_seconds: float = math.inf
    """Seconds after the first failure without progress in which further attempts begin."""
    max_pause_seconds: float = 5.0

    def retrying(
        self,
        *,
        progress: Callable[[], int] = lambda: 0,
        on_wait: Callable[[BaseException], None] = lambda error: None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> tenacity.Retrying:
        """Attempts under this policy, as `for attempt in ...: with attempt: ...` or by a call with a function.

        `progress`: a number that grows as attempts achieve something; growth since the last failure starts the count,
        the time and the pauses afresh. `on_wait`: called with the first error of such a row. `give_up`: asked after
        each failure, whether to raise its error instead of waiting.
        """
        return tenacity.Retrying(**self._rules(progress, on_wait, give_up))

    def retrying_async(
        self,
        *,
        progress: Callable[[], int] = lambda: 0,
        on_wait: Callable[[BaseException], None] = lambda error: None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> tenacity.AsyncRetrying:
        """The same on asyncio, as `async for attempt in ...: with attempt: ...`; pauses leave the event loop free."""
        return tenacity.AsyncRetrying(sleep=_pause_async, **self._rules(progress, on_wait, give_up))

    def _rules(
        self, progress: Callable[[], int], on_wait: Callable[[BaseException], None], give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        reached = progress()

        def count(state: tenacity.RetryCallState) -> None:
            nonlocal reached
            if (now := progress()) > reached:
                reached, state.attempt_number = now, 1
            if state.attempt_number == 1:
                state.start_time = time.monotonic()

        def is_over(state: tenacity.RetryCallState) -> bool:
            seconds = time.monotonic() - state.start_time
            return state.attempt_number >= self.max_attempts or seconds > self.max_seconds or give_up()

        def before_pause(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1:
                on_wait(_error_of(state))

        return {
            "retry": tenacity.retry_if_exception(self.is_transient),
            "after": count,
            "wait": self._pause,
            "stop": is_over,
            "before_sleep": before_pause,
            "reraise": True,
        }

    def _pause(self, state: tenacity.RetryCallState) -> float:
        random_pause = tenacity.wait_random_exponential(FIRST_PAUSE_SECONDS, self.max_pause_seconds)
        return self.requested_pause(_error_of(state)) or random_pause(state)


async def _pause_async(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None  # noqa: S101 - only failed attempts are followed by a pause
    return error
