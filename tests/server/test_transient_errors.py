"""Errors that pass and errors that do not, as real databases raise them."""

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.database.engine import create_engine
from server.transient_errors import is_database_unavailable, is_transient


def error_of(engine: sa.Engine, *statements: str) -> sa.exc.DBAPIError:
    """The error of the last statement."""
    with engine.connect() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        with pytest.raises(sa.exc.DBAPIError) as raised:
            connection.exec_driver_sql(statements[-1])
    return raised.value


@pytest.mark.parametrize(
    ("statements", "passes"),
    [
        (["PRAGMA query_only=ON", "CREATE TABLE a (b)"], True),
        (["SELECT * FROM nothing"], False),
        (["CREATE TABLE a (b NOT NULL)", "INSERT INTO a VALUES (NULL)"], False),
        (["SELECT ?"], False),
    ],
    ids=["read-only", "no such table", "a constraint", "a mistake of ours"],
)
def test_errors_of_sqlite_are_told_apart_by_their_code(tmp_path: Path, statements: list[str], passes: bool) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    assert is_transient(error_of(engine, *statements)) is passes
    engine.dispose()


def test_a_locked_a_full_and_a_damaged_file_of_sqlite(tmp_path: Path) -> None:
    engine, other = (sa.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0}) for _ in range(2))
    with other.connect() as holder:
        holder.exec_driver_sql("CREATE TABLE a (b)")
        holder.exec_driver_sql("BEGIN EXCLUSIVE")
        assert is_database_unavailable(error_of(engine, "BEGIN IMMEDIATE"))
        holder.exec_driver_sql("ROLLBACK")
    assert is_database_unavailable(
        error_of(engine, "PRAGMA max_page_count=3", "INSERT INTO a VALUES (zeroblob(100000))")
    )
    for each in (engine, other):
        each.dispose()
    (tmp_path / "b.db").write_bytes(b"not a database" * 1000)
    damaged = sa.create_engine(f"sqlite:///{tmp_path}/b.db")
    assert not is_transient(error_of(damaged, "SELECT * FROM a"))
    damaged.dispose()
    with pytest.raises(sqlite3.OperationalError) as nowhere:
        sqlite3.connect(tmp_path / "nowhere" / "c.db")
    assert is_database_unavailable(nowhere.value)


@pytest.mark.parametrize(
    ("statements", "passes"),
    [
        (["SET TRANSACTION READ ONLY", "CREATE TABLE a (b int)"], True),
        (["SELECT pg_terminate_backend(pg_backend_pid())"], True),
        (["SET statement_timeout = 10", "SELECT pg_sleep(60)"], True),
        (["SELECT * FROM nothing"], False),
        (["SELECT 1 / 0"], False),
    ],
    ids=["read-only after a failover", "ended by its administrator", "a timeout", "no such table", "a mistake of ours"],
)
def test_errors_of_postgresql_are_told_apart_by_their_sqlstate(
    postgres: Any, statements: list[str], passes: bool
) -> None:
    engine = create_engine(postgres.new_database())
    assert is_database_unavailable(error_of(engine, *statements)) is passes
    engine.dispose()


def test_a_postgresql_that_does_not_listen_is_unavailable(tmp_path: Path) -> None:
    engine = create_engine(f"postgresql+psycopg://rvc@/rvc?host={tmp_path}")
    with pytest.raises(sa.exc.OperationalError) as raised:
        engine.connect()
    assert is_database_unavailable(raised.value)


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EMFILE", "ETIMEDOUT", "EHOSTDOWN"])
def test_errors_of_disks_that_pass(name: str) -> None:
    error = OSError(getattr(errno, name), "it failed")
    assert (is_transient(error), is_database_unavailable(error)) == (True, False)


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "EISDIR", "EINVAL"])
def test_errors_of_disks_that_do_not_pass(name: str) -> None:
    assert not is_transient(OSError(getattr(errno, name), "it failed"))
