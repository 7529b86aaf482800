"""Instance id shared by a data folder and a database, so that neither is used with another installation's.

It is stored in `instance.json` and in the table `instance`, both written at the first start of a server. Without this
check, a server with a mistyped database URL would compare the files of one installation with the rows of another, and
treat every file as orphaned.

    no id in either; both are empty, or the database's files are in the folder    both get an id
    the same id in both                                                           continue
    anything else                                                                 refuse to start, change nothing
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from rvc_engine.environment.files import replace, sync_folder
from rvc_engine.workspace.checksum import sha256_of
from server.auth.audit import record
from server.database.clock import utc_now
from server.database.engine import (
    advisory_lock,
    database_name,
    migrate,
    program_version,
    read_session,
    reading_connection,
    write_session,
)
from server.database.tables import Instance, new_id
from server.errors import Refused, SettingsRefused
from server.storage.instance_files import INSTANCE_FILE, read_instance_id, read_mark, write_instance_id
from server.storage.local import Storage
from server.storage.tier import MOVING_FILE
from server.storage.trash import Trash

_PENDING = "instance.json.new"
"""New content of the file, written before the row, so that a crash between the two leaves no mismatch."""


@dataclass(frozen=True)
class Contents:
    """Ids of the datasets (or jobs, or uploads) in the database and in the folder."""

    rows: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    """Rows whose files must exist: not those of deleted datasets, nor of jobs never claimed by a worker."""
    folders: frozenset[str] = frozenset()

    @property
    def num_found(self) -> int:
        """Number of rows whose files exist."""
        return len(self.expected & self.folders)

    @property
    def num_orphans(self) -> int:
        """Number of folders without a row."""
        return len(self.folders - self.rows)


@dataclass(frozen=True)
class Pairing:
    """A data folder and a database, compared."""

    folder: Path
    database: str
    folder_id: str | None
    pending_id: str | None
    database_id: str | None
    has_trash: bool = False
    kinds: dict[str, Contents] = field(default_factory=dict)
    """Contents of `datasets`, `jobs` and `uploads`; compared only if the ids differ."""

    @property
    def is_joined(self) -> bool:
        """Whether both have the same id."""
        return self.database_id is not None and self.database_id == self.folder_id

    @property
    def has_files(self) -> bool:
        """Whether the folder has any files that could be lost."""
        return self.has_trash or any(each.folders for each in self.kinds.values())

    @property
    def has_rows(self) -> bool:
        """Whether the database has a dataset, a job or an upload."""
        return any(each.rows for each in self.kinds.values())

    @property
    def mismatch(self) -> str | None:
        """Message on why the two do not belong together, and what to do; None if they do."""
        is_interrupted = self.database_id is not None and self.database_id == self.pending_id
        is_without_id = self.folder_id is None and self.database_id is None
        if self.is_joined or is_interrupted or (is_without_id and self._fits()):
            return None
        return (
            f"the data folder {self.folder} ({self._describe_folder()}) and the database {self.database} "
            f"({self._describe_database()}) do not belong together, and nothing was changed; {self._remedy()}"
        )

    def check_adoptable(self) -> None:
        """Raise Refused if joining the two would leave all files without rows, or all rows without files."""
        is_nothing_found = self._num_expected > 0 and self._num_found == 0
        if is_nothing_found or (self.has_files and not self.has_rows):
            raise Refused(
                f"the data folder {self.folder} ({self._describe_folder()}) and the database {self.database} "
                f"({self._describe_database()}) have no dataset or job in common; {self._remedy()}"
            )

    def _fits(self) -> bool:
        """Whether at least half of the database's files are in the folder, or both are empty."""
        return self._num_found * 2 >= self._num_expected if self._num_expected else not self.has_files

    @property
    def _num_expected(self) -> int:
        return sum(len(each.expected) for each in self.kinds.values())

    @property
    def _num_found(self) -> int:
        return sum(each.num_found for each in self.kinds.values())

    def _describe_folder(self) -> str:
        stored = _counts({kind: len(each.folders) for kind, each in self.kinds.items()})
        return f"{_instance_text(self.folder_id)}, {stored if self.has_files else 'empty'}"

    def _describe_database(self) -> str:
        stored = _counts({kind: len(each.rows) for kind, each in self.kinds.items()})
        return f"{_instance_text(self.database_id)}, {stored if self.has_rows else 'empty'}"

    def _remedy(self) -> str:
        if self.has_files and not self.has_rows:
            return "check RVC_TRAIN_DATABASE_URL, or restore the database; to start afresh, use an empty data folder"
        if self.has_rows and not self.has_files:
            return "check RVC_TRAIN_DATA_FOLDER and that its disk is mounted, or restore the files"
        return (
            "check RVC_TRAIN_DATA_FOLDER and RVC_TRAIN_DATABASE_URL; only after a restore, let "
            "`rvc-train admin adopt` join the two"
        )


def _instance_text(an_id: str | None) -> str:
    return "no instance yet" if an_id is None else f"instance {an_id}"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def inspect_pairing(folder: Path, url: str) -> Pairing:
    """Compare folder and database without changing them. Raises SettingsRefused and SQLAlchemyError."""
    storage = Storage(folder)
    folder_id, pending_id = read_instance_id(storage.root / INSTANCE_FILE), read_instance_id(storage.root / _PENDING)
    with reading_connection(url) as connection:
        tables = set() if connection is None else set(sa.inspect(connection).get_table_names())
        database_id = None
        if connection is not None and "instance" in tables:
            database_id = connection.execute(sa.text("SELECT id FROM instance")).scalar()
        ids = (storage.root, database_name(url), folder_id, pending_id, database_id)
        if (pairing := Pairing(*ids)).is_joined:
            return pairing
        kinds = {
            kind: Contents(*_rows(connection, kind, tables), frozenset(path.name for path in storage.entries(kind)))
            for kind in _EXPECTED
        }
    return Pairing(*ids, has_trash=bool(Trash(storage.root).entries()), kinds=kinds)


_EXPECTED = {"datasets": "deleted_at IS NULL", "jobs": "token > 0", "uploads": "dataset_id IS NULL"}
"""Conditions of rows whose files must exist, valid in every schema version."""


def _rows(connection: sa.Connection | None, kind: str, tables: set[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of all rows, and of those whose files must exist."""
    if connection is None or kind not in tables:
        return frozenset(), frozenset()
    is_expected = sa.literal_column(f"({_EXPECTED[kind]})", sa.Boolean())
    rows = connection.execute(sa.select(sa.column("id", sa.String()), is_expected).select_from(sa.table(kind))).all()
    return frozenset(an_id for an_id, _ in rows), frozenset(an_id for an_id, has_files in rows if has_files)


def check_pairing(folder: Path, url: str) -> None:
    """Raise SettingsRefused if this folder and this database do not belong together. Changes nothing."""
    if (mismatch := inspect_pairing(folder, url).mismatch) is not None:
        raise SettingsRefused(mismatch)


def prepare_folder(storage: Storage) -> None:
    """Before anything else: have a data folder that is empty begin with what the store behind it has.

    Raises SettingsRefused for a folder whose files lie in another store; StorageAway.
    """
    if storage.tier is not None and not (storage.root / INSTANCE_FILE).exists():
        found = storage.tier.instance()
        if found is not None and not any(storage.entries(kind) for kind in _EXPECTED):
            storage.tier.make_folders()
            write_instance_id(storage.root / INSTANCE_FILE, found.id, storage.tier.blobs.address)
    check_store(storage)


def has_store(storage: Storage) -> bool:
    """Whether the data folder's server has put the store of the settings behind it."""
    mark = read_mark(storage.root / INSTANCE_FILE)
    return storage.tier is not None and mark is not None and mark.storage == storage.tier.blobs.address


def check_store(storage: Storage) -> None:
    """Raise SettingsRefused for a data folder whose files lie in another store than the one of the settings."""
    mark = read_mark(storage.root / INSTANCE_FILE)
    tier = storage.tier
    if mark is None or mark.storage is None or (tier is not None and tier.blobs.address == mark.storage):
        return
    if tier is not None and (found := tier.instance()) is not None and found.id == mark.id:
        return  # they were moved there
    raise SettingsRefused(
        f"the files of the data folder {storage.root} lie in {mark.storage}; set RVC_TRAIN_STORAGE_URL to it"
    )


def open_instance(engine: sa.Engine, storage: Storage) -> str:
    """Check the two, upgrade the schema, and give both an id if they have none; returns the id.

    A store behind the folder gets the same. For servers only. Raises SettingsRefused, StorageAway.
    """
    prepare_folder(storage)
    check_pairing(storage.root, engine.url.render_as_string(hide_password=False))
    migrate(engine)
    instance_id = _join(engine, storage)
    _join_store(storage, instance_id)
    return instance_id


def _join_store(storage: Storage, instance_id: str, *, is_adopted: bool = False) -> None:
    """Give the store the id, if it is empty. Raises SettingsRefused for another installation's; StorageAway."""
    if storage.tier is None:
        return
    address, found = storage.tier.blobs.address, storage.tier.instance()
    if found is None and storage.tier.instance(MOVING_FILE) is not None:
        raise SettingsRefused(f"a move to {address} has not ended; call `rvc-train admin storage move` again")
    if found is None and not is_adopted and next(storage.tier.blobs.list(""), None) is not None:
        raise SettingsRefused(
            f"{address} has files already, and none of them is an installation's; name an empty prefix in "
            "RVC_TRAIN_STORAGE_URL"
        )
    if found is not None and found.id != instance_id and not is_adopted:
        raise SettingsRefused(
            f"{address} belongs to the instance {found.id}, and this one is {instance_id}; name another prefix in "
            "RVC_TRAIN_STORAGE_URL"
        )
    mark = storage.root / INSTANCE_FILE
    if not has_store(storage):
        write_instance_id(mark, instance_id, address)
    if found is None or found.id != instance_id:
        storage.tier.blobs.put(INSTANCE_FILE, mark, sha256_of(mark))


def adopt(engine: sa.Engine, storage: Storage, pairing: Pairing) -> str:
    """Join folder and database; returns their id: that of either, or a new one if they differ or have none."""
    pairing.check_adoptable()
    migrate(engine)
    ids = {pairing.folder_id, pairing.database_id} - {None}
    instance_id = _join(engine, storage, ids.pop() if len(ids) == 1 else new_id("ins"))
    _join_store(storage, instance_id, is_adopted=True)
    return instance_id


def _join(engine: sa.Engine, storage: Storage, new: str | None = None) -> str:
    """Write the id to both: `new`, else the present one, else a fresh one. Completes an interrupted call."""
    mark, pending = storage.root / INSTANCE_FILE, storage.root / _PENDING
    with write_session(engine) as session:
        advisory_lock(session, "instance")
        row = session.get(Instance, 1)
        instance_id = new or (new_id("ins") if row is None else row.id)
        if row is None or row.id != instance_id:
            write_instance_id(pending, instance_id)
            row = session.merge(Instance(id=instance_id, created_at=utc_now()))
        row.written_by = program_version()
        if new is not None:
            record(session, "instance.adopted", instance_id)
    if read_instance_id(pending) == instance_id:
        with contextlib.suppress(FileNotFoundError):  # another server that starts has just renamed it
            replace(pending, mark)
        sync_folder(storage.root)
    elif new is not None:
        write_instance_id(mark, instance_id)
    if read_instance_id(mark) != instance_id:  # another server set a different id at the same time
        check_pairing(storage.root, engine.url.render_as_string(hide_password=False))
    return instance_id


def is_joined(engine: sa.Engine, storage: Storage) -> bool:
    """Whether folder and database still have the same id: a disk may be unmounted, or a database replaced."""
    with read_session(engine) as session:
        row = session.get(Instance, 1)
    return row is not None and read_instance_id(storage.root / INSTANCE_FILE) == row.id
