"""Retry policy: bounds, pauses and progress."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rvc_train.retry import RetryPolicy


class Busy(Exception):
    """Transient error that names a pause."""

    seconds = 7.0


POLICY = RetryPolicy(lambda error: isinstance(error, OSError | Busy), lambda error: getattr(error, "seconds", None))


pytestmark = pytest.mark.usefixtures("pauses")
Run = Callable[..., Any]


@pytest.fixture(params=["retrying", "retrying_async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Function that calls another one under a policy, in a loop of either kind."""

    async def attempt_async(policy: RetryPolicy, function: Callable[[], Any], **options: Any) -> Any:
        async for attempt in policy.retrying_async(**options):
            with attempt:
                result = function()
        return result

    def attempt_all(policy: RetryPolicy, function: Callable[[], Any], **options: Any) -> Any:
        if request.param == "retrying_async":
            return asyncio.run(attempt_async(policy, function, **options))
        return policy.retrying(**options)(function)

    return attempt_all


class Flaky:
    """Function that raises the given errors, one a call, and then returns the number of its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors: Iterator[Exception] = iter(errors)
        self.num_calls = 0

    def __call__(self) -> int:
        self.num_calls += 1
        if (error := next(self.errors, None)) is not None:
            raise error
        return self.num_calls


def test_transient_errors_are_retried_with_random_pauses_up_to_a_bound(run: Run, pauses: list[float]) -> None:
    policy = RetryPolicy(POLICY.is_transient, max_pause_seconds=1)
    assert run(policy, Flaky(*[OSError()] * 9)) == 10
    assert len(set(pauses)) == 9
    assert all(0 <= pause <= min(0.4 * 2**number, 1) for number, pause in enumerate(pauses))


def test_other_errors_are_raised_at_once(run: Run, pauses: list[float]) -> None:
    with pytest.raises(ValueError, match="no"):
        run(POLICY, Flaky(ValueError("no")))
    assert pauses == []


def test_a_requested_pause_is_kept(run: Run, pauses: list[float]) -> None:
    run(POLICY, Flaky(Busy()))
    assert pauses == [7.0]


def test_the_last_error_is_raised_after_the_last_attempt(run: Run) -> None:
    function = Flaky(OSError("first"), OSError("second"), OSError("third"))
    with pytest.raises(OSError, match="second"):
        run(RetryPolicy(POLICY.is_transient, max_attempts=2), function)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which a test advances."""
    now = [0.0]
    monkeypatch.setattr("rvc_train.retry.time.monotonic", lambda: now[0])
    return now


def test_the_time_counts_from_the_first_failure_without_progress(run: Run, clock: list[float]) -> None:
    durations = iter([1000.0, 60.0, 60.0, 60.0])

    def stream() -> None:
        clock[0] += next(durations)
        raise OSError("lost")

    policy = RetryPolicy(POLICY.is_transient, max_seconds=100)
    with pytest.raises(OSError, match="lost"):
        run(policy, stream, progress=lambda: min(int(clock[0]), 1000))
    assert list(durations) == [60.0]


def test_progress_starts_the_count_of_attempts_afresh(run: Run) -> None:
    function = Flaky(*[OSError("lost")] * 9)
    waits: list[BaseException] = []
    policy = RetryPolicy(POLICY.is_transient, max_attempts=3)
    with pytest.raises(OSError, match="lost"):
        run(policy, function, progress=lambda: min(function.num_calls, 4), on_wait=waits.append)
    assert (function.num_calls, len(waits)) == (6, 4)


def test_giving_up_raises_the_error_of_the_last_attempt(run: Run) -> None:
    function = Flaky(*[OSError("unavailable")] * 9)
    with pytest.raises(OSError, match="unavailable"):
        run(POLICY, function, give_up=lambda: function.num_calls == 3)
    assert function.num_calls == 3
