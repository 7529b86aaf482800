"""The way to the database: connections with the right settings, transactions, migrations, the write-ahead log.

SQLite is opened in WAL mode with `synchronous=FULL`. Writers begin IMMEDIATE: a transaction that reads first and writes
later would fail at once when another writer came between, whatever the timeout. SQLite before 3.51.3 can damage a WAL
when two connections checkpoint at once, so no connection checkpoints by itself; `checkpoint` is called by the one
scheduler thread of the server.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from server.errors import SettingsRefused

BUSY_TIMEOUT_MS = 30_000
NUM_CONNECTIONS = 15
"""At most, for a process that names no number of its own."""
NUM_IDLE_CONNECTIONS = 5
"""Kept open; the others are closed when they are not needed any more."""
CHECK_TIMEOUT_MS = 2_000
SCHEMA_VERSION = "0010"
"""Newest revision in `server/database/migrations`."""
SAFE_SQLITE = (3, 51, 3)
_BEGIN = "sqlite_begin"
_MIGRATION_LOCK = 0x5256_4354  # any number, the same for all of us


def create_engine(url: str, num_connections: int = NUM_CONNECTIONS) -> sa.Engine:
    """An engine on `url`; for SQLite with the pragmas of the module's first lines, its folder made when it connects.

    `num_connections`: as many as threads that may ask for one, so that none waits for what another holds.
    """
    parsed = sa.make_url(url)
    pool = {"pool_size": NUM_IDLE_CONNECTIONS, "max_overflow": num_connections - NUM_IDLE_CONNECTIONS}
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, **pool)
    waiting = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = sa.create_engine(parsed, connect_args=waiting, **pool)
    sa.event.listen(engine, "do_connect", _make_folder)
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _make_folder(_dialect: object, _record: object, arguments: list[str], _options: object) -> None:
    Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA wal_autocheckpoint=0")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. The switch does not heed the busy timeout when several processes open a new file at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_BEGIN, 'IMMEDIATE')}")


@contextmanager
def write_session(engine: sa.Engine) -> Iterator[Session]:
    """One transaction that may write; committed at the end, rolled back by any exception."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_session(engine: sa.Engine) -> Iterator[Session]:
    """One transaction that only reads: a consistent view that hinders no writer."""
    reading = engine.execution_options(**{_BEGIN: "DEFERRED"})
    with Session(reading, expire_on_commit=False) as session, session.begin():
        yield session


def advisory_lock(session: Session, key: str) -> None:
    """Let no other transaction with this key past here before this one ends. SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest version, in one transaction. Processes that start at once wait for each other.

    Raises SettingsRefused when a newer program has already brought it further.
    """
    version = present_version(engine)
    if version == SCHEMA_VERSION:
        return
    if version is not None and version > SCHEMA_VERSION:
        raise SettingsRefused(
            f"the database was brought to schema {version} by a newer rvc-train, and this one knows {SCHEMA_VERSION}; "
            "install the newer one again, or choose another data folder"
        )
    from server.database.migrate import upgrade  # Alembic costs 10 MB that a server in its daily work need not carry

    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:  # tables that a migration rebuilds are referred to; the pragma works outside transactions only
            dbapi.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                if not is_sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                upgrade(connection)
        finally:
            if is_sqlite:
                dbapi.execute("PRAGMA foreign_keys=ON")


def present_version(engine: sa.Engine) -> str | None:
    """Version of the schema that the database has; None when it is empty."""
    with read_session(engine) as session:
        if not sa.inspect(session.connection()).has_table("alembic_version"):
            return None
        return session.connection().execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def check_write(engine: sa.Engine) -> None:
    """Write, and take it back: a read-only file or a lock that is never let go shows here. OperationalError."""
    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            dbapi.execute(f"PRAGMA busy_timeout={CHECK_TIMEOUT_MS}")
        try:
            with connection.begin() as transaction:
                connection.execute(sa.text("UPDATE alembic_version SET version_num = version_num"))
                transaction.rollback()
        finally:
            if is_sqlite:
                dbapi.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def checkpoint_wal(engine: sa.Engine) -> None:
    """Checkpoint the WAL. For the one scheduler thread; a no-op beyond SQLite."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        dbapi.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextmanager
def reading_connection(url: str) -> Iterator[sa.Connection | None]:
    """A connection that creates and changes nothing; None where SQLite's file is not there yet."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    elif (path := Path(parsed.database or ":memory:")).exists():
        address = f"{path.resolve().as_uri()}?mode=rw"  # a reader in mode=ro would leave -wal and -shm behind
        timeout = BUSY_TIMEOUT_MS / 1000
        engine = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(address, timeout, uri=True), poolclass=sa.NullPool
        )
    else:
        yield None
        return
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def database_name(url: str) -> str:
    """A database's address for messages: without its password, wherever in the address that stands."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return str(parsed.database or ":memory:")
    query = {name: value for name, value in parsed.query.items() if name in {"host", "port", "dbname"}}
    place = sa.URL.create(parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, query)
    return place.render_as_string()


def sqlite_warning(engine: sa.Engine) -> str | None:
    """What is to be said about an old SQLite library; None when there is nothing to say."""
    if engine.dialect.name != "sqlite" or sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return None
    return (
        f"SQLite {sqlite3.sqlite_version} is older than 3.51.3, which mends a rare fault of the write-ahead log; the "
        "server works around it (one process alone folds the log). Don't open the database with other programs that "
        "write."
    )
