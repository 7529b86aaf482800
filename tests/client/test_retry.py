"""Retry policy: bounds, pauses and progress."""

from collections.abc import Iterator

import pytest

from rvc_train.retry import RetryPolicy


class Busy(Exception):
    """Transient error that names a pause."""

    seconds = 7.0


POLICY = RetryPolicy(lambda error: isinstance(error, OSError | Busy), lambda error: getattr(error, "seconds", None))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before retries, in seconds, which are skipped."""
    skipped: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", skipped.append)
    return skipped


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


def test_transient_errors_are_retried_with_random_pauses_up_to_a_bound(pauses: list[float]) -> None:
    policy = RetryPolicy(POLICY.is_transient, max_pause_seconds=1)
    assert policy.retrying()(Flaky(*[OSError()] * 9)) == 10
    assert len(set(pauses)) == 9
    assert all(0 <= pause <= min(0.4 * 2**number, 1) for number, pause in enumerate(pauses))


def test_other_errors_are_raised_at_once(pauses: list[float]) -> None:
    with pytest.raises(ValueError, match="no"):
        POLICY.retrying()(Flaky(ValueError("no")))
    assert pauses == []


def test_a_requested_pause_is_kept(pauses: list[float]) -> None:
    POLICY.retrying()(Flaky(Busy()))
    assert pauses == [7.0]


def test_the_last_error_is_raised_after_the_last_attempt() -> None:
    function = Flaky(OSError("first"), OSError("second"), OSError("third"))
    with pytest.raises(OSError, match="second"):
        RetryPolicy(POLICY.is_transient, max_attempts=2).retrying()(function)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which a test advances."""
    now = [0.0]
    monkeypatch.setattr("rvc_train.retry.time.monotonic", lambda: now[0])
    return now


def test_the_time_counts_from_the_first_failure_without_progress(clock: list[float]) -> None:
    durations = iter([1000.0, 60.0, 60.0, 60.0])

    def stream() -> None:
        clock[0] += next(durations)
        raise OSError("lost")

    retrying = RetryPolicy(POLICY.is_transient, max_seconds=100).retrying(progress=lambda: min(int(clock[0]), 1000))
    with pytest.raises(OSError, match="lost"):
        retrying(stream)
    assert list(durations) == [60.0]


def test_progress_starts_the_count_of_attempts_afresh() -> None:
    function = Flaky(*[OSError("lost")] * 9)
    waits: list[BaseException] = []
    policy = RetryPolicy(POLICY.is_transient, max_attempts=3)
    retrying = policy.retrying(progress=lambda: min(function.num_calls, 4), on_wait=waits.append)
    with pytest.raises(OSError, match="lost"):
        retrying(function)
    assert (function.num_calls, len(waits)) == (6, 4)


def test_giving_up_raises_the_error_of_the_last_attempt() -> None:
    function = Flaky(*[OSError("unavailable")] * 9)
    with pytest.raises(OSError, match="unavailable"):
        POLICY.retrying(give_up=lambda: function.num_calls == 3)(function)
    assert function.num_calls == 3
