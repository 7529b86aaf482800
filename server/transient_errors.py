"""Classification of errors of databases and disks: those that pass by themselves, or once an operator acts, and others.

PostgreSQL's errors are classed by SQLSTATE, SQLite's by result code, those of disks by errno. An error that is not
listed here, such as a missing table or a damaged file, is not transient: a retry would fail again.
"""

import sqlite3

import sqlalchemy as sa

from rvc_engine.workspace.disk import is_disk_unavailable

TRANSIENT_SQLSTATES = ("08", "25", "40", "53", "55P03", "57", "58")
"""Classes: connection, transaction (read-only after a failover), rollback, resources, operator, system; and a lock
that was not free in time."""
TRANSIENT_SQLITE_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SQLITE_PRIMARY = 0xFF
"""Mask of the primary result code in an extended one."""


def is_database_unavailable(error: BaseException) -> bool:
    """Whether the database does not answer, refuses writes, is locked for too long, or has no free connection."""
    if isinstance(error, sa.exc.TimeoutError):  # of the pool
        return True
    if isinstance(error, sa.exc.DBAPIError):
        return error.connection_invalidated or _is_driver_error_transient(error.orig, default=_may_lack_code(error))
    return isinstance(error, sqlite3.Error) and _is_driver_error_transient(error, default=False)


def _is_driver_error_transient(error: BaseException | None, *, default: bool) -> bool:
    """Whether the code of a driver's error is transient; `default` for an error without a code."""
    sqlite_code, sqlstate = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlstate", None)
    if sqlite_code is not None:
        return int(sqlite_code) & _SQLITE_PRIMARY in TRANSIENT_SQLITE_CODES
    if sqlstate is not None:
        return str(sqlstate).startswith(TRANSIENT_SQLSTATES)
    return default


def _may_lack_code(error: sa.exc.DBAPIError) -> bool:
    """Whether drivers raise this class without a code, as for a connection that was refused or is closed."""
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)


def is_transient(error: BaseException) -> bool:
    """Whether the same action may succeed later: the database is unavailable, or a disk fails or is full."""
    if isinstance(error, OSError):
        return is_disk_unavailable(error)
    return is_database_unavailable(error)


def first_line(error: BaseException) -> str:
    """First line of an error's text: SQLAlchemy appends the statement in further ones."""
    return (str(error) or type(error).__name__).splitlines()[0]
