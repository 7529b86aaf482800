"""File that is touched when a heartbeat of the worker is accepted."""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa


def test_the_file_is_touched_while_heartbeats_are_accepted_and_only_then(shop: Any, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"

    def is_touched() -> bool:
        return file.is_file() and file.stat().st_mtime > 0

    shop.be_impatient()
    with shop.worker(heartbeat_file=file):
        shop.wait_until(is_touched, "the first heartbeat")
        with sa.create_engine(shop.url).connect() as other:
            other.exec_driver_sql("BEGIN EXCLUSIVE")
            shop.wait_until(lambda: not _touched_within(shop, file), "heartbeats that are not accepted")
            other.exec_driver_sql("ROLLBACK")
        shop.wait_until(is_touched, "a heartbeat after that")


def _touched_within(shop: Any, file: Path) -> bool:
    """Make the file old; whether it is touched within three heartbeats."""
    os.utime(file, (0, 0))
    try:
        shop.wait_until(lambda: file.stat().st_mtime > 0, "a heartbeat", 3 * shop.settings().heartbeat_seconds)
    except AssertionError:
        return False
    return True
