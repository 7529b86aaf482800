"""Database access: connections and their settings, transactions, migrations, checkpoints of the write-ahead log.

SQLite is opened in WAL mode with `synchronous=FULL`. Writers begin IMMEDIATE: a transaction that reads first and writes
later would fail at once if another writer came between, whatever the timeout. SQLite before 3.51.3 can damage a WAL
when two connections checkpoint at once, so connections never checkpoint by themselves; one thread of the server
calls `checkpoint_wal`. From that version on, workers checkpoint a log that grows while no server runs.
"""

import importlib.metadata
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity
from sqlmodel import Session

from rvc_engine.environment.disks import network_disk
from server.database.clock import RECYCLE_SECONDS
from server.database.copies import back_up_before, newest_backup_before
from server.errors import SchemaChanged, SettingsRefused

CACHE_KIB = 500
"""Pages that each connection keeps. Each write of another connection empties this cache, so that a larger one, by
default 2,000 KiB, is mostly memory that dozens of connections hold and do not use; the system caches the file too."""
BUSY_TIMEOUT_MS = 30_000
NUM_CONNECTIONS = 15
"""Default maximum of connections per process."""
NUM_IDLE_CONNECTIONS = 5
"""Connections kept open; the others are closed after use."""
CHECK_TIMEOUT_MS = 2_000
LARGE_WAL = 64 * 2**20
"""Size in bytes from which the write-ahead log's file is cut off."""
VERY_LARGE_WAL = 256 * 2**20
"""Size in bytes from which workers checkpoint the log too."""
SCHEMA_VERSION = "0030"
"""Newest revision in `server/database/migrations`."""
SAFE_SQLITE = (3, 51, 3)
_BEGIN = "sqlite_begin"
_MIGRATION_LOCK = 0x5256_4354  # an arbitrary number, the same in every process


def create_engine(url: str, num_connections: int = NUM_CONNECTIONS, num_idle: int = NUM_IDLE_CONNECTIONS) -> sa.Engine:
    """An engine on `url`. SQLite gets the settings of the module's docstring, and its folder is created on connect.

    `num_connections`: one per thread that uses the database, so that no thread waits for another's. `num_idle`: those
    of them kept open, the last used first; opening one costs as much as several queries.
    """
    parsed = sa.make_url(url)
    # Parameters of a statement that fails hold webhooks' secrets, and would stand in the log.
    pool: dict[str, Any] = {
        "hide_parameters": True,
        "pool_size": num_idle,
        "max_overflow": num_connections - num_idle,
        "pool_use_lifo": True,
    }
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, pool_recycle=RECYCLE_SECONDS, **pool)
    _check_disk(Path(str(parsed.database)))
    waiting = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = sa.create_engine(parsed, connect_args=waiting, **pool)
    sa.event.listen(engine, "do_connect", _make_folder)
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _check_disk(path: Path) -> None:
    """Raise SettingsRefused for a database on a network disk, where SQLite's locks and log would damage it."""
    if (kind := network_disk(path)) is not None:
        raise SettingsRefused(
            f"the database {path} is on a network disk ({kind}), where SQLite loses data; keep the data folder on a "
            "disk of this machine (RVC_TRAIN_DATA_FOLDER), or use PostgreSQL (RVC_TRAIN_DATABASE_URL)"
        )


def _make_folder(_dialect: object, _record: object, arguments: list[str], _options: object) -> None:
    Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin` starts transactions
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(f"PRAGMA cache_size={-CACHE_KIB}")


@tenacity.retry(
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    ),
    wait=tenacity.wait_fixed(0.02),
    stop=tenacity.stop_after_delay(BUSY_TIMEOUT_MS / 1000),
    reraise=True,
)
def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite ignores the busy timeout here when several processes open a new file at once."""
    connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_BEGIN, 'IMMEDIATE')}")


@contextmanager
def write_session(engine: sa.Engine) -> Iterator[Session]:
    """A transaction that may write: committed at the end, rolled back by any exception."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read_connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """As `read_session`, for a statement of every request: a session costs twice as much as a look-up by a key."""
    with engine.execution_options(**{_BEGIN: "DEFERRED"}).connect() as connection:
        yield connection


@contextmanager
def read_session(engine: sa.Engine) -> Iterator[Session]:
    """A transaction that only reads: all its statements see the database at one moment, and no writer is blocked."""
    if engine.dialect.name == "sqlite":
        reading = engine.execution_options(**{_BEGIN: "DEFERRED"})
    else:  # by default each statement would see what was committed before it
        reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with Session(reading, expire_on_commit=False) as session, session.begin():
        yield session


def advisory_lock(session: Session, key: str) -> None:
    """Block other transactions with this key until this one ends. A no-op on SQLite, which has a single writer."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))


def migrate(engine: sa.Engine) -> None:
    """Upgrade the schema to the newest version, in one transaction. Processes that start at once wait for each other.

    An SQLite database is copied before; see `server.database.copies`. Raises SettingsRefused when that fails, and when
    a newer program has already upgraded it further.
    """
    check_schema(engine)
    if present_version(engine) == SCHEMA_VERSION:
        return
    from server.database.migrate import upgrade  # Alembic takes 10 MB, and is rarely needed

    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:  # migrations rebuild tables that others reference; works only outside a transaction
            dbapi.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                if not is_sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                version = _version_in(connection)  # another process may have upgraded it meanwhile
                if is_sqlite and version not in {None, SCHEMA_VERSION} and engine.url.database:
                    back_up_before(Path(engine.url.database), SCHEMA_VERSION)
                upgrade(connection)
                connection.execute(sa.text("UPDATE instance SET written_by = :program"), {"program": program_version()})
        finally:
            if is_sqlite:
                dbapi.execute("PRAGMA foreign_keys=ON")


def check_schema(engine: sa.Engine) -> None:
    """Raise SettingsRefused for the schema of a newer program; the message names the version that can read it."""
    with read_session(engine) as session:
        connection = session.connection()
        version = _version_in(connection)
        if version is None or version <= SCHEMA_VERSION:
            return
        inspector = sa.inspect(connection)
        has_name = inspector.has_table("instance") and any(
            column["name"] == "written_by" for column in inspector.get_columns("instance")
        )
        program = connection.execute(sa.text("SELECT written_by FROM instance")).scalar() if has_name else None
    newer = f"rvc-train {program}" if program else "a newer rvc-train"
    is_file = engine.dialect.name == "sqlite" and engine.url.database
    copy = newest_backup_before(Path(str(engine.url.database)), version) if is_file else None
    raise SettingsRefused(
        f"the database has schema {version} of {newer}; this is rvc-train {program_version()}, which reads schema "
        f"{SCHEMA_VERSION} and older ones; install {newer} again, or restore {copy or 'a backup of before the upgrade'}"
    )


def require_schema(session: Session) -> None:
    """Raise SchemaChanged unless the schema is this program's, until the transaction ends."""
    version = session.connection().execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if version != SCHEMA_VERSION:
        raise SchemaChanged(
            f"the database has schema {version}, and this worker reads schema {SCHEMA_VERSION}: it takes no job; start "
            "a worker of the server's version in its place"
        )


def program_version() -> str:
    """Version of rvc-train."""
    return importlib.metadata.version("rvc-train")


def present_version(engine: sa.Engine) -> str | None:
    """Version of the database's schema; None for an empty database."""
    with read_session(engine) as session:
        return _version_in(session.connection())


def _version_in(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def check_write(engine: sa.Engine) -> None:
    """Write and roll back, to detect a read-only file or a lock that is never released. Raises OperationalError."""
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
    """Checkpoint the WAL; a no-op on other databases. For the server's one thread that does.

    No writer ever waits for it. A large log is cut off as well, unless someone reads or writes at that moment.
    """
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        dbapi.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        log = Path(f"{engine.url.database}-wal")
        if not log.exists() or log.stat().st_size < LARGE_WAL:
            return
        dbapi.execute("PRAGMA busy_timeout=0")  # for readers, TRUNCATE would wait with the writers' lock in hand
        try:
            dbapi.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            dbapi.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def checkpoint_large_wal(
    engine: sa.Engine, min_bytes: int = VERY_LARGE_WAL, safe_version: tuple[int, int, int] = SAFE_SQLITE
) -> bool:
    """Checkpoint a WAL of at least `min_bytes`, for processes beside the server; whether that was done.

    Blocks no reader or writer. A no-op on other databases, and with a SQLite older than `safe_version`.
    """
    if engine.dialect.name != "sqlite" or sqlite3.sqlite_version_info < safe_version:
        return False
    log = Path(f"{engine.url.database}-wal")
    if not log.exists() or log.stat().st_size < min_bytes:
        return False
    with engine.connect() as connection:
        dbapi: Any = connection.connection.dbapi_connection
        dbapi.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return True


@contextmanager
def reading_connection(url: str) -> Iterator[sa.Connection | None]:
    """A connection that creates and changes nothing; None if SQLite's file does not exist."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    elif (path := Path(parsed.database or ":memory:")).exists():
        address = f"{path.resolve().as_uri()}?mode=rw"  # mode=ro would leave -wal and -shm behind
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
    """A database's URL for messages, without its password, which may be in the query too."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return str(parsed.database or ":memory:")
    query = {name: value for name, value in parsed.query.items() if name in {"host", "port", "dbname"}}
    shown = sa.URL.create(parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, query)
    return shown.render_as_string()
