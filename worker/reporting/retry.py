"""Retries while the server or a disk is unavailable."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from rvc_train.retry import RetryPolicy
from worker.gateway.errors import Unavailable, first_line, is_transient

T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 10.0
"""Longest wait that a server may ask for: a worker that is to stop notices that after it."""


def _requested_pause(error: BaseException) -> float | None:
    seconds = error.retry_after_seconds if isinstance(error, Unavailable) else None
    return None if seconds is None else min(seconds, LONGEST_PAUSE_SECONDS)


RETRIES = RetryPolicy(is_transient, _requested_pause, max_pause_seconds=2)

logger = structlog.get_logger(__name__)


def retry_transient(action: Callable[[], T], *, give_up: Callable[[], bool] = lambda: False) -> T:
    """Retry an action while its errors are transient. Raises the last one when `give_up` returns true first."""
    return RETRIES.retrying(on_wait=_log_wait, give_up=give_up)(action)


def retry_until_available(action: Callable[[], T], *, give_up: Callable[[], bool] = lambda: False) -> T | None:
    """Retry an action while its errors are transient; None when `give_up` returns true first."""
    try:
        return retry_transient(action, give_up=give_up)
    except Exception as error:
        if not is_transient(error):
            raise
        return None


def _log_wait(error: BaseException) -> None:
    logger.warning("the server or a disk is unavailable; retrying until it is back", reason=first_line(error))
