"""Clock of the rows that server and workers write: on PostgreSQL, which several machines share, the database's."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

RECYCLE_SECONDS = 600
"""Age at which a connection to PostgreSQL is replaced, and so the database's time is read anew."""


def utc_now() -> datetime:
    """The current time in UTC, with its zone."""
    return datetime.now(UTC)


def database_clock(engine: sa.Engine) -> Callable[[], datetime]:
    """The database's clock. SQLite's is this machine's.

    Times of several machines are then those of one clock: the end of a wait that one worker set and another compares
    with, and the start and the end of an attempt that a server ends after its worker was lost.
    """
    return utc_now if engine.dialect.name == "sqlite" else _DatabaseClock(engine)


class _DatabaseClock:
    """Time of the database as of the newest connection, and what has passed since. Callable from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._base: tuple[datetime, float] | None = None
        sa.event.listen(engine, "connect", self._read)

    def __call__(self) -> datetime:
        if self._base is None:
            with self._engine.connect():  # the first connection
                pass
        if self._base is None:  # there were connections before this clock
            with self._engine.connect() as connection:
                self._read(connection.connection.dbapi_connection)
        assert self._base is not None  # noqa: S101 - `_read` has set it
        time_then, then = self._base
        return time_then + timedelta(seconds=_steady_seconds() - then)

    def _read(self, connection: Any, _record: object = None) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            self._base = (cursor.fetchone()[0].astimezone(UTC), _steady_seconds())
        connection.rollback()


def _steady_seconds() -> float:
    """Seconds that no one sets, counted on while the machine sleeps."""
    if sys.platform == "win32":
        return time.monotonic()  # the milliseconds since the system's start, sleep included
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
