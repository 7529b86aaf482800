"""Readiness of the server: a writable database with the current schema, and free disk space; warning of old SQLite."""

import sqlite3
import time

import anyio
import sqlalchemy as sa
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from server.database.engine import SAFE_SQLITE, SCHEMA_VERSION, check_write, present_version
from server.storage.local import Storage

FRESH_SECONDS = 1.0
"""Age up to which a result is given again, because anyone may request it and it takes the database's write lock."""


class Readiness:
    """Checks that are run at most once a second, and once for all who wait. For use on the event loop only."""

    def __init__(self, engine: sa.Engine, storage: Storage, reserve_bytes: int) -> None:
        self._engine, self._storage, self._reserve_bytes = engine, storage, reserve_bytes
        self._lock = anyio.Lock()
        self._result: dict[str, str] = {}
        self._checked_at = -float("inf")

    async def checks(self) -> dict[str, str]:
        """Result of each check: `ok`, or a sentence on what is wrong."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= FRESH_SECONDS:
                self._result = await run_sync(self._check)
                self._checked_at = time.monotonic()
            return self._result

    def _check(self) -> dict[str, str]:
        return {"database": self._check_database(), "disk": self._check_disk()}

    def _check_database(self) -> str:
        try:
            version = present_version(self._engine)
            if version != SCHEMA_VERSION:
                return f"the schema has version {version}, but this server needs {SCHEMA_VERSION}; restart the server"
            check_write(self._engine)
        except SQLAlchemyError as error:
            return f"the database does not answer: {type(error).__name__}"
        return "ok"

    def _check_disk(self) -> str:
        free, reserve = self._storage.free_bytes(), self._reserve_bytes
        return (
            "ok" if free >= reserve else f"{free} bytes are free, less than the reserve of {reserve}; free some space"
        )


def sqlite_warning(engine: sa.Engine) -> str | None:
    """Warning about an old SQLite library; None if it is recent enough."""
    if engine.dialect.name != "sqlite" or sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} is older than 3.51.3, which fixes a rare corruption of the write-ahead log; "
        "the server avoids it (a single process checkpoints the log). Don't write to the database with other programs."
    )
