"""Retries while the database is away."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

T = TypeVar("T")

DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What SQLAlchemy raises when the database does not answer, is locked for too long, or has no room."""

logger = structlog.get_logger(__name__)


def retry_until_available(
    action: Callable[[], T], *, pause_seconds: float = 2, give_up: Callable[[], bool] = lambda: False
) -> T | None:
    """Retry an action until the database is available; None when `give_up` returns true first."""
    is_logged = False
    while True:
        try:
            return action()
        except DATABASE_UNAVAILABLE as error:
            if give_up():
                return None
            if not is_logged:
                logger.warning("the database is away; trying again until it is back", reason=first_line(error))
                is_logged = True
            time.sleep(pause_seconds)


def first_line(error: BaseException) -> str:
    """The beginning of an error's text: SQLAlchemy's goes on with the statement."""
    return (str(error) or type(error).__name__).splitlines()[0]
