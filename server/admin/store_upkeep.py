"""Upkeep of the store behind the data folder: logs and leftovers are sent, and copies here that are not used go."""

import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.jobs import LEASED_STATUSES
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Job
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.local_copies import LocalCopies

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
