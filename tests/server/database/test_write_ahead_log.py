"""The write-ahead log in processes beside the server."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from server.database.engine import VERY_LARGE_WAL, checkpoint_large_wal

MEBIBYTE = 2**20
ANY_VERSION = (3, 0, 0)


@pytest.mark.sqlite
def test_a_worker_folds_a_large_log_without_waiting_for_readers_and_writers(engine: sa.Engine) -> None:
    """The statement itself is the same with every SQLite; only from 3.51.3 on two processes may run it at once."""
    file = Path(str(engine.url.database))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE big (content)")
        connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(?))", (2 * MEBIBYTE,))
    assert file.stat().st_size < MEBIBYTE
    assert not checkpoint_large_wal(engine, VERY_LARGE_WAL, ANY_VERSION)
    assert not checkpoint_large_wal(engine, MEBIBYTE, (99, 0, 0))
    assert file.stat().st_size < MEBIBYTE
    writer = engine.raw_connection()
    writer.execute("BEGIN IMMEDIATE")
    assert checkpoint_large_wal(engine, MEBIBYTE, ANY_VERSION)
    writer.execute("ROLLBACK")
    writer.close()
    assert file.stat().st_size > 2 * MEBIBYTE
