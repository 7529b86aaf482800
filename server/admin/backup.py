"""Backup of a running server: a snapshot of the database, then the files that it references.

Stored files never change once they have their name, so they are hard-linked, or copied where the disk cannot link.
Workspaces are left out: they are large and change all the time, and a running job continues from the last checkpoint in
the storage, or starts again.
"""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa
import uuid6

from rvc_engine.environment.files import rename, sync_folder
from rvc_engine.workspace.atomic_files import write_atomically
from server.blobs.copies import link_or_copy
from server.database.copies import copy_sqlite
from server.database.engine import present_version
from server.errors import Refused
from server.storage.instance_files import INSTANCE_FILE, read_instance_id, write_instance_id
from server.storage.local import Storage
from server.storage.tier import AWAY, Tier

DATABASE = "rvc-train.db"
MANIFEST = "backup.json"


@dataclass
class BackupResult:
    """Content of a backup."""

    folder: Path
    has_database: bool
    num_files: int = 0
    num_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    """Names of files that were deleted during the backup."""


def back_up(engine: sa.Engine, storage: Storage, target: Path) -> BackupResult:
    """Make a backup in the new folder `target`, which appears once it is complete.

    It has the layout of a data folder: to restore it, start the server on a copy of it. Only SQLite is copied; dump
    other databases with their own tools, before the files. Raises Refused, OSError.
    """
    if target.exists():
        raise Refused(f"{target} already exists; name a new folder")
    if target.resolve().is_relative_to(storage.root):
        raise Refused(f"{target} is in the data folder; name a folder elsewhere, preferably on another disk")
    temporary = target.with_name(f".{target.name}.{uuid6.uuid7().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        result = BackupResult(target, engine.dialect.name == "sqlite")
        if result.has_database:
            _copy_database(Path(str(engine.url.database)), temporary / DATABASE)
        for name in _files(storage):
            _copy_file(storage.root / name, temporary / name, result)
        if storage.tier is not None:
            _copy_from_store(storage.tier, temporary, result)
        manifest = {
            "made_at": datetime.now(UTC).isoformat(),
            "version": version("rvc-train"),
            "schema": present_version(engine),
            "has_database": result.has_database,
            "num_files": result.num_files,
            "num_bytes": result.num_bytes,
        }
        write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(target.parent)
    return result


def _copy_database(source: Path, target: Path) -> None:
    """Copy the database and check the copy. Raises Refused."""
    copy_sqlite(source, target)
    with closing(sqlite3.connect(target)) as copy:
        errors = [row[0] for row in copy.execute("PRAGMA integrity_check")]
    if errors != ["ok"]:
        raise Refused(f"the database is damaged ({'; '.join(errors[:3])}); restore an earlier backup")


def _files(storage: Storage) -> Iterator[Path]:
    """Files to back up, relative to the root: all but workspaces, stage results and published weights."""
    yield from _files_below(storage.root, storage.root / INSTANCE_FILE)
    for folder in ("datasets", "consents", "fetched", "base-weights", "conversions", "uploads"):
        yield from _files_below(storage.root, storage.root / folder)
    for job in sorted((storage.root / "jobs").glob("*_*")):
        for part in sorted(job.iterdir()):
            if part.name != storage.workspace(job.name).name:
                yield from _files_below(storage.root, part)


def _files_below(root: Path, path: Path) -> Iterator[Path]:
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    for each in paths:
        if each.is_file() and not each.name.endswith(".tmp") and each.name != AWAY:
            yield each.relative_to(root)


def _copy_file(source: Path, target: Path, result: BackupResult) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    grows = source.suffix == ".log" or source.parent.name == "uploads"
    try:
        if grows:  # a link would keep growing with the original
            shutil.copyfile(source, target)
        else:
            link_or_copy(source, target)
    except FileNotFoundError:
        result.missing.append(source.name)
        return
    result.num_files += 1
    result.num_bytes += target.stat().st_size


def _copy_from_store(tier: Tier, target: Path, result: BackupResult) -> None:
    """Copy what is in the store behind the data folder, and not here. The copy has all files in its folder."""
    for key in tier.all_keys():
        if (target / key).exists():
            continue
        (target / key).parent.mkdir(parents=True, exist_ok=True)
        try:
            tier.copy_out(key, target / key)
        except FileNotFoundError:
            result.missing.append(key)
            continue
        result.num_files += 1
        result.num_bytes += (target / key).stat().st_size
    if (instance_id := read_instance_id(target / INSTANCE_FILE)) is not None:
        (target / INSTANCE_FILE).unlink()  # it may be a hard link
        write_instance_id(target / INSTANCE_FILE, instance_id)  # without the store, which the copy does not need
