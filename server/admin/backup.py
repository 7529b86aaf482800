"""A copy of everything, made while the server runs: the database as of one moment, then the files that it names.

Files of the storage never change once they have their name, so those that the copied database names are linked, or
copied where the disk cannot link. Workspaces are left out: they are large, change all the time, and a job that was
running goes on from the last checkpoint that the storage has, or begins again.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa
import uuid6

from rvc_engine.workspace.atomic_files import sync_folder, write_atomically
from server.database.engine import present_version
from server.errors import Refused
from server.storage.instances import INSTANCE_FILE
from server.storage.local import Storage, link_or_copy, sync_file

DATABASE = "rvc-train.db"
MANIFEST = "backup.json"


@dataclass
class BackupResult:
    """What a backup holds."""

    folder: Path
    has_database: bool
    num_files: int = 0
    num_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    """Files that were deleted while the backup was made."""


def back_up(engine: sa.Engine, storage: Storage, target: Path) -> BackupResult:
    """Make a backup in the folder `target`, which must not be there yet; it appears when it is whole.

    It is laid out as a data folder: to restore it, start the server on a copy of it. The database is copied for SQLite;
    of another database make a dump with its own tools, before the files. Raises Refused, OSError.
    """
    if target.exists():
        raise Refused(f"{target} is there already; name a folder that is not")
    if target.resolve().is_relative_to(storage.root):
        raise Refused(f"{target} lies in the data folder; name a folder elsewhere, on another disk at best")
    temporary = target.with_name(f".{target.name}.{uuid6.uuid7().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        done = BackupResult(target, engine.dialect.name == "sqlite")
        if done.has_database:
            _copy_database(Path(str(engine.url.database)), temporary / DATABASE)
        for name in _files(storage):
            _copy_file(storage.root / name, temporary / name, done)
        manifest = {
            "made_at": datetime.now(UTC).isoformat(),
            "version": version("rvc-train"),
            "schema": present_version(engine),
            "has_database": done.has_database,
            "num_files": done.num_files,
            "num_bytes": done.num_bytes,
        }
        write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(target.parent)
    return done


def _copy_database(source: Path, target: Path) -> None:
    """Copy the database in one piece, its write-ahead log included; checked afterwards. Raises Refused."""
    with sqlite3.connect(source, timeout=30) as reading, sqlite3.connect(target) as writing:
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE")
        faults = [row[0] for row in writing.execute("PRAGMA integrity_check")]
    reading.close()
    writing.close()
    if faults != ["ok"]:
        raise Refused(f"the database is damaged ({'; '.join(faults[:3])}); restore an earlier backup")
    sync_file(target)


def _files(storage: Storage) -> Iterator[Path]:
    """Everything worth keeping, relative to the root: the instance's id, recordings, logs, artifacts, synced
    checkpoints, uploads."""
    yield from _files_below(storage.root, storage.root / INSTANCE_FILE)
    for folder in ("datasets", "uploads"):
        yield from _files_below(storage.root, storage.root / folder)
    for job in sorted((storage.root / "jobs").glob("*_*")):
        for part in sorted(job.iterdir()):
            if part.name != storage.workspace(job.name).name:
                yield from _files_below(storage.root, part)


def _files_below(root: Path, path: Path) -> Iterator[Path]:
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    for each in paths:
        if each.is_file() and not each.name.endswith(".tmp"):
            yield each.relative_to(root)


def _copy_file(source: Path, target: Path, done: BackupResult) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    grows = source.suffix == ".log" or source.parent.name == "uploads"
    try:
        if grows:  # a link would go on growing with the original
            shutil.copyfile(source, target)
        else:
            link_or_copy(source, target)
    except FileNotFoundError:
        done.missing.append(source.name)
        return
    done.num_files += 1
    done.num_bytes += target.stat().st_size
