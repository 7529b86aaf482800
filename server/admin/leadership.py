"""Leadership: of several servers on one PostgreSQL, one runs the periodic tasks, validates datasets and sends webhooks.

The leader holds an advisory lock on a connection of its own, which it checks every second. When the connection breaks,
because the leader was killed or the network fails, PostgreSQL frees the lock and another server takes it. For a moment
the old leader may still end what it has begun: rows are locked where two could disagree (docs/decisions/0032).
On SQLite the one server of the data folder always leads.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from server.errors import SettingsRefused

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
VALID_SECONDS = 5.0
"""Time since the last check after which a server no longer counts itself as the leader."""
FREE_SECONDS = 10
"""Time after which PostgreSQL closes the connection of a leader that is silent. Longer than `VALID_SECONDS`."""
_LOCK = 0x5256_4355  # an arbitrary number, the same in every process
_TIMEOUTS = {
    "idle_session_timeout": f"{FREE_SECONDS}s",  # a frozen process
    "tcp_keepalives_idle": "5",  # a machine or network that fails; without effect on a local socket
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


class Leadership:
    """Whether this process leads. Its thread runs between `start` and `stop`."""

    def __init__(self, url: str) -> None:
        """`url`: the database's SQLAlchemy URL."""
        self._engine = _engine(url)
        self._confirmed_at: float | None = None
        """Time of the last check that found the lock held, on the monotonic clock."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)

    def is_leading(self) -> bool:
        """Whether this server leads now."""
        if self._engine is None:
            return True
        confirmed_at = self._confirmed_at
        return confirmed_at is not None and time.monotonic() - confirmed_at < VALID_SECONDS

    def start(self) -> None:
        """Start the thread that takes, checks and retakes the lock."""
        if self._engine is not None:
            self._thread.start()

    def stop(self) -> None:
        """Free the lock, so that another server leads at once."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(VALID_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._hold()
            except sa.exc.SQLAlchemyError as error:
                message = "the lock of the leading server cannot be taken; retrying"
                if self._confirmed_at is not None:
                    message = "this server no longer leads: its connection broke"
                logger.warning(message, reason=str(error).splitlines()[0])
            finally:
                self._confirmed_at = None
            self._stopping.wait(CHECK_SECONDS)

    def _hold(self) -> None:
        """Wait for the lock, and hold it until the connection breaks or the server stops."""
        assert self._engine is not None  # noqa: S101 - the thread runs only with one
        with self._engine.connect() as connection:
            _set_timeouts(connection)
            while not self._stopping.is_set():
                began = time.monotonic()
                if self._confirmed_at is not None:
                    connection.execute(sa.select(1))
                    self._confirmed_at = began
                elif _try_lock(connection):
                    self._confirmed_at = began
                    logger.info("this server leads: it runs the periodic tasks")
                self._stopping.wait(CHECK_SECONDS)


@contextmanager
def exclusive(url: str) -> Iterator[None]:
    """Keep servers on PostgreSQL from leading meanwhile. Raises SettingsRefused while one leads; no-op on SQLite."""
    if (engine := _engine(url)) is None:
        yield
        return
    with engine.connect() as connection:
        if not _try_lock(connection):
            raise SettingsRefused("a server uses the database; stop all its servers and try again")
        yield


def _engine(url: str) -> sa.Engine | None:
    """An engine whose connections are closed after use; None for SQLite."""
    if sa.make_url(url).get_backend_name() == "sqlite":
        return None
    return sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True)


def _try_lock(connection: sa.Connection) -> bool:
    return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))))


def _set_timeouts(connection: sa.Connection) -> None:
    """Have PostgreSQL close the connection soon after this process or its machine stops; older versions lack some."""
    names = sa.table("pg_settings", sa.column("name"))
    for name, value in _TIMEOUTS.items():
        setting = sa.func.set_config(names.c.name, value, False)
        connection.execute(sa.select(setting).select_from(names).where(names.c.name == name))
