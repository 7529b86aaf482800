"""The store behind the data folder: its upkeep, and the move of all files to another one.

Upkeep sends logs and leftovers, and deletes copies here that are not used.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import col

from rvc_engine.workspace.checksum import sha256_of
from rvc_train.schemas.jobs import LEASED_STATUSES
from server.blobs.interface import BlobStore
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Job
from server.errors import Refused
from server.settings import ServerSettings
from server.storage.instance_files import INSTANCE_FILE, read_instance_id
from server.storage.local import Storage
from server.storage.local_copies import LocalCopies
from server.storage.tier import MOVING_FILE, Tier

SECONDS = 60.0
_RUNS_PER_SCAN = 10


class StoreUpkeep:
    """A periodic task of the server that leads."""

    def __init__(self, engine: sa.Engine, storage: Storage, settings: ServerSettings) -> None:
        assert storage.tier is not None  # noqa: S101 - there is a store to keep
        self._engine, self._tier = engine, storage.tier
        self._copies = LocalCopies(engine, storage, settings.storage_cache_bytes, utc_now)
        self._num_runs = 0

    def run(self) -> None:
        """Send what the logs of running jobs have more; now and then compare all files. StorageAway."""
        query = sa.select(col(Job.id)).where(col(Job.status).in_(LEASED_STATUSES))
        with read_session(self._engine) as session:
            running = set(session.connection().execute(query).scalars())
        self._tier.send_logs(running)
        if self._num_runs % _RUNS_PER_SCAN == 0:
            self._tier.send_missing()
            self._copies.trim()
        self._num_runs += 1


@dataclass(frozen=True)
class MoveResult:
    """Numbers of files of a move."""

    num_present: int
    num_copied: int


def move_storage(storage: Storage, target: BlobStore) -> MoveResult:
    """Copy all files that are kept to a store that is empty, or has some of them; each is compared by its sha256.

    Files that come meanwhile are copied by the next call, or by the server once it uses the store. Raises Refused,
    SettingsRefused, StorageAway, OSError.
    """
    mark, to = storage.root / INSTANCE_FILE, Tier(storage.root, target)
    instance_id = read_instance_id(mark)
    if instance_id is None:
        raise Refused(f"no server has used the data folder {storage.root} yet; there is nothing to move")
    found = to.instance() or to.instance(MOVING_FILE)
    is_other = next(target.list(""), None) is not None if found is None else found.id != instance_id
    if is_other:
        raise Refused(f"{target.address} is another installation's, or has other files; name an empty prefix")
    if found is None:
        target.put(MOVING_FILE, mark, sha256_of(mark))
    counted = Counter(_copied(storage, to))
    target.put(INSTANCE_FILE, mark, sha256_of(mark))  # no server starts on it before
    target.delete(MOVING_FILE)
    return MoveResult(counted[False], counted[True])


def _copied(storage: Storage, to: Tier) -> Iterator[bool]:
    """For each file whether it was copied, or was there."""
    keys = {to.key_of(path) for path in to.kept_files()}
    if storage.tier is not None:
        keys.update(storage.tier.all_keys())
    for key in sorted(keys):
        path = storage.fetch(storage.root / key)
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            is_missing = not to.has(path, is_compared=True)
            if is_missing:
                to.send(path)
            yield is_missing
