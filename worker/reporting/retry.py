"""Retries while the database is unavailable."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from rvc_train.retry import RetryPolicy

T = TypeVar("T")

DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
"""Errors of SQLAlchemy when the database does not answer, is locked for too long, or has no free connection."""
DATABASE_RETRIES = RetryPolicy(lambda error: isinstance(error, DATABASE_UNAVAILABLE), max_pause_seconds=2)

logger = structlog.get_logger(__name__)


def retry_until_available(action: Callable[[], T], *, give_up: Callable[[], bool] = lambda: False) -> T | None:
    """Retry an action until the database is available; None when `give_up` returns true first."""
    try:
        return DATABASE_RETRIES.retrying(on_wait=_log_wait, give_up=give_up)(action)
    except DATABASE_UNAVAILABLE:
        return None


def _log_wait(error: BaseException) -> None:
    logger.warning("the database is unavailable; retrying until it is back", reason=first_line(error))


def first_line(error: BaseException) -> str:
    """First line of an error's text: SQLAlchemy appends the statement in further ones."""
    return (str(error) or type(error).__name__).splitlines()[0]
