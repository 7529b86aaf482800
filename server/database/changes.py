"""Detection of changes of the database, cheap enough to ask at every request."""

import sqlite3
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa


class ChangeCounter:
    """A number that is the same as before only while no transaction was committed, by any process.

    It costs microseconds, because it reads shared memory: SQLite's `data_version` of a connection that never writes.
    Other databases have nothing as cheap, so there it is None. For the event loop alone.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._path = Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the connection to a database that exists. Callable in any thread, before the first `current`."""
        if self._path is not None:
            address = f"{self._path.resolve().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(address, timeout=0, check_same_thread=False, uri=True)

    def current(self) -> int | None:
        """The number; None where it is unknown: something may have changed."""
        with suppress(sqlite3.Error):
            if self._connection is not None:
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
