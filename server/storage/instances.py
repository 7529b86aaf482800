"""The id that a data folder and a database share, so that neither is ever used beside another's.

In the folder it stands in `instance.json`, in the database in the table `instance`. Both get it at the first start of a
server. Without the check, a mistyped address would make a server look at the files of one installation with the rows of
another, and take every file for one that belongs to nobody.

    no id anywhere, nothing stored, or the database's files lie in the folder    both get an id
    the same id in both                                                          go on
    anything else                                                                refuse to start, change nothing
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError

from rvc_engine.workspace.atomic_files import sync_folder, write_atomically
from server.auth.audit import record
from server.database.clock import utc_now
from server.database.engine import (
    advisory_lock,
    database_name,
    migrate,
    read_session,
    reading_connection,
    write_session,
)
from server.database.tables import Instance, new_id
from server.errors import Refused, SettingsRefused
from server.storage.local import Storage
from server.storage.trash import Trash

INSTANCE_FILE = "instance.json"
_PENDING = "instance.json.new"
"""The mark that is to come, written before the row: a crash between the two leaves no pair that does not match."""


class InstanceMark(BaseModel):
    """The content of `instance.json`."""

    id: str
    created_at: datetime


@dataclass(frozen=True)
class Contents:
    """Which datasets (or jobs, or uploads) are in the database and in the folder."""

    rows: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    """Those rows whose files must be there: not of a deleted dataset, nor of a job that no worker has had."""
    folders: frozenset[str] = frozenset()

    @property
    def num_found(self) -> int:
        """Rows whose files are there."""
        return len(self.expected & self.folders)

    @property
    def num_orphans(self) -> int:
        """Folders without a row."""
        return len(self.folders - self.rows)


@dataclass(frozen=True)
class Pairing:
    """A data folder and a database, looked at side by side."""

    folder: Path
    database: str
    folder_id: str | None
    pending_id: str | None
    database_id: str | None
    has_trash: bool = False
    kinds: dict[str, Contents] = field(default_factory=dict)
    """By `datasets`, `jobs` and `uploads`; looked at only where the ids do not match."""

    @property
    def is_joined(self) -> bool:
        """Whether both have the same id."""
        return self.database_id is not None and self.database_id == self.folder_id

    @property
    def has_files(self) -> bool:
        """Whether the folder holds anything that could be lost."""
        return self.has_trash or any(each.folders for each in self.kinds.values())

    @property
    def has_rows(self) -> bool:
        """Whether the database has a dataset, a job or an upload."""
        return any(each.rows for each in self.kinds.values())

    @property
    def mismatch(self) -> str | None:
        """Why the two do not belong together, and what to do; None where they do."""
        is_interrupted = self.database_id is not None and self.database_id == self.pending_id
        is_without_id = self.folder_id is None and self.database_id is None
        if self.is_joined or is_interrupted or (is_without_id and self._fits()):
            return None
        return (
            f"the data folder {self.folder} ({self._describe_folder()}) and the database {self.database} "
            f"({self._describe_database()}) do not belong together, and nothing was changed; {self._remedy()}"
        )

    def check_adoptable(self) -> None:
        """Raise Refused where joining the two would leave all files without rows, or all rows without files."""
        is_nothing_found = self._num_expected > 0 and self._num_found == 0
        if is_nothing_found or (self.has_files and not self.has_rows):
            raise Refused(
                f"the data folder {self.folder} ({self._describe_folder()}) and the database {self.database} "
                f"({self._describe_database()}) have not one dataset or job in common; {self._remedy()}"
            )

    def _fits(self) -> bool:
        """Whether the database's files lie in the folder (half of them at least), or both are empty."""
        return self._num_found * 2 >= self._num_expected if self._num_expected else not self.has_files

    @property
    def _num_expected(self) -> int:
        return sum(len(each.expected) for each in self.kinds.values())

    @property
    def _num_found(self) -> int:
        return sum(each.num_found for each in self.kinds.values())

    def _describe_folder(self) -> str:
        stored = _counts({kind: len(each.folders) for kind, each in self.kinds.items()})
        return f"{_of_instance(self.folder_id)}, {stored if self.has_files else 'empty'}"

    def _describe_database(self) -> str:
        stored = _counts({kind: len(each.rows) for kind, each in self.kinds.items()})
        return f"{_of_instance(self.database_id)}, {stored if self.has_rows else 'empty'}"

    def _remedy(self) -> str:
        if self.has_files and not self.has_rows:
            return "check RVC_TRAIN_DATABASE_URL, or restore the database; to begin anew, name an empty data folder"
        if self.has_rows and not self.has_files:
            return "check RVC_TRAIN_DATA_FOLDER and that its disk is mounted, or restore the files"
        return (
            "check RVC_TRAIN_DATA_FOLDER and RVC_TRAIN_DATABASE_URL; only after a restore, let "
            "`rvc-train admin adopt` join the two"
        )


def _of_instance(an_id: str | None) -> str:
    return "of no instance yet" if an_id is None else f"of the instance {an_id}"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def read_instance_id(path: Path) -> str | None:
    """The instance id in a file; None where there is no such file. SettingsRefused where it cannot be read."""
    try:
        return InstanceMark.model_validate_json(path.read_bytes()).id
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsRefused(f"{path} cannot be read ({error.strerror}); check the folder and its owner") from error
    except ValidationError as error:
        raise SettingsRefused(
            f"{path} is damaged: it should hold the id of the installation; bring it back from a backup, or delete it "
            "and run `rvc-train admin adopt`"
        ) from error


def write_instance_id(path: Path, an_id: str) -> None:
    """Write the id so that it survives a power cut."""
    write_atomically(path, InstanceMark(id=an_id, created_at=utc_now()).model_dump_json(indent=1).encode() + b"\n")


def inspect_pairing(folder: Path, url: str) -> Pairing:
    """Look at both, and change nothing. SettingsRefused; SQLAlchemyError where the database does not answer."""
    storage = Storage(folder)
    folder_id, pending_id = read_instance_id(storage.root / INSTANCE_FILE), read_instance_id(storage.root / _PENDING)
    with reading_connection(url) as connection:
        tables = set() if connection is None else set(sa.inspect(connection).get_table_names())
        database_id = None
        if connection is not None and "instance" in tables:
            database_id = connection.execute(sa.text("SELECT id FROM instance")).scalar()
        ids = (storage.root, database_name(url), folder_id, pending_id, database_id)
        if (found := Pairing(*ids)).is_joined:
            return found
        kinds = {
            kind: Contents(*_rows(connection, kind, tables), frozenset(path.name for path in storage.entries(kind)))
            for kind in _EXPECTED
        }
    return Pairing(*ids, has_trash=bool(Trash(storage.root).entries()), kinds=kinds)


_EXPECTED = {"datasets": "deleted_at IS NULL", "jobs": "token > 0", "uploads": "dataset_id IS NULL"}
"""Conditions on rows whose files must be there, in every schema that there has been."""


def _rows(connection: sa.Connection | None, kind: str, tables: set[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of all rows, and of those whose files must be there."""
    if connection is None or kind not in tables:
        return frozenset(), frozenset()
    is_expected = sa.literal_column(f"({_EXPECTED[kind]})", sa.Boolean())
    rows = connection.execute(sa.select(sa.column("id", sa.String()), is_expected).select_from(sa.table(kind))).all()
    return frozenset(an_id for an_id, _ in rows), frozenset(an_id for an_id, has_files in rows if has_files)


def check_pairing(folder: Path, url: str) -> None:
    """Raise SettingsRefused where no server may work with this folder and this database. Changes nothing."""
    if (mismatch := inspect_pairing(folder, url).mismatch) is not None:
        raise SettingsRefused(mismatch)


def open_instance(engine: sa.Engine, storage: Storage) -> str:
    """Check the two, bring the schema up to date, and give both an id where they have none; the id.

    For the one server of the folder. Raises SettingsRefused.
    """
    check_pairing(storage.root, engine.url.render_as_string(hide_password=False))
    migrate(engine)
    return _join(engine, storage)


def adopt(engine: sa.Engine, storage: Storage, pairing: Pairing) -> str:
    """Make the two belong together; the id. One that is kept elsewhere too is kept, two that differ give a new one."""
    pairing.check_adoptable()
    migrate(engine)
    ids = {pairing.folder_id, pairing.database_id} - {None}
    return _join(engine, storage, ids.pop() if len(ids) == 1 else new_id("ins"))


def _join(engine: sa.Engine, storage: Storage, wanted: str | None = None) -> str:
    """Write the id into both, `wanted` or the one that is there; go on where a crash interrupted that."""
    mark, pending = storage.root / INSTANCE_FILE, storage.root / _PENDING
    with write_session(engine) as session:
        advisory_lock(session, "instance")
        row = session.get(Instance, 1)
        instance_id = wanted or (new_id("ins") if row is None else row.id)
        if row is None or row.id != instance_id:
            write_instance_id(pending, instance_id)
            session.merge(Instance(id=instance_id, created_at=utc_now()))
        if wanted is not None:
            record(session, "instance.adopted", instance_id)
    if read_instance_id(pending) == instance_id:
        pending.replace(mark)
        sync_folder(storage.root)
    elif wanted is not None:
        write_instance_id(mark, instance_id)
    if read_instance_id(mark) != instance_id:  # another server gave the database an id of its own at the same moment
        check_pairing(storage.root, engine.url.render_as_string(hide_password=False))
    return instance_id


def is_joined(engine: sa.Engine, storage: Storage) -> bool:
    """Whether folder and database have the same id at this moment: a disk may have gone, a database been replaced."""
    with read_session(engine) as session:
        row = session.get(Instance, 1)
    return row is not None and read_instance_id(storage.root / INSTANCE_FILE) == row.id
