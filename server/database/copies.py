"""Copies of an SQLite database: for backups, and before its schema is upgraded."""

import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from rvc_engine.environment.files import rename, sync_file, sync_folder, unlink
from server.errors import SettingsRefused

UPGRADE_BACKUPS = "backups"
"""Folder beside the database."""
NUM_KEPT = 3
"""Upgrades of which the backup is kept."""
STEP_PAGES = 1000
MAX_RESTARTS = 5


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database, with its write-ahead log, into a new file that only this user can read.

    It is copied in steps, so that no long read keeps the log from being folded. A write between two steps makes SQLite
    begin again; after some times the whole is copied in one step.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(source, timeout=30)) as reading, closing(sqlite3.connect(target)) as writing:
        try:
            reading.backup(writing, pages=STEP_PAGES, progress=_Restarts().check)
        except _WrittenTooOften:
            reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE")
    sync_file(target)


class _WrittenTooOften(Exception):
    """The database was written to between steps, again and again."""


class _Restarts:
    """Count of a stepwise copy's restarts."""

    def __init__(self) -> None:
        self._left, self._num = sys.maxsize, 0

    def check(self, _status: int, left: int, _total: int) -> None:
        """Raise _WrittenTooOften after `MAX_RESTARTS`; called by SQLite after each step with the pages left."""
        self._num += left > self._left
        self._left = left
        if self._num > MAX_RESTARTS:
            raise _WrittenTooOften


def back_up_before(source: Path, revision: str) -> Path:
    """Copy a database before its upgrade to `revision`; delete the oldest of such copies. Raises SettingsRefused.

    For the one process that upgrades it.
    """
    folder = source.parent / UPGRADE_BACKUPS
    target = folder / f"before-{revision}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db"
    temporary = folder / ".before.tmp"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        unlink(temporary)
        copy_sqlite(source, temporary)
        rename(temporary, target)
        sync_folder(folder)
        for old in _upgrade_backups(folder)[:-NUM_KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise SettingsRefused(
            f"the database {source} could not be copied to {folder} before its upgrade, and was not changed ({error}); "
            "free disk space, or check the owner of the folder"
        ) from error
    return target


def newest_backup_before(source: Path, revision: str) -> Path | None:
    """The newest copy made before an upgrade to `revision`; None without one."""
    found = [
        path
        for path in _upgrade_backups(source.parent / UPGRADE_BACKUPS)
        if path.name.startswith(f"before-{revision}-")
    ]
    return found[-1] if found else None


def _upgrade_backups(folder: Path) -> list[Path]:
    """Copies made before upgrades, oldest first."""
    return sorted(folder.glob("before-*-*.db"), key=lambda path: path.name.rsplit("-", 1)[1])
