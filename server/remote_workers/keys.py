"""Keys of workers and leases: a token with the scope `work` opens nothing that its bearer was not given.

A key is an HMAC of what it opens, under a secret of the installation that is made once and kept in the database, where
all of its servers read it. Keys need no row, hold as long as what they open, and are different for each lease.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from server.database.engine import advisory_lock, write_session
from server.database.tables import Policy
from server.errors import NotFound

_NAME = "worker_keys"


class WorkerKeys:
    """Keys of one installation."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime]) -> None:
        self._engine, self._clock = engine, clock
        self._secret: bytes | None = None

    def key_of(self, an_id: str) -> str:
        """The key of a worker or a lease, by its id."""
        return hmac.new(self._read_secret(), an_id.encode(), hashlib.sha256).hexdigest()

    def check(self, an_id: str, key: str) -> None:
        """Raise NotFound for a wrong key, as if the worker or lease did not exist."""
        if not hmac.compare_digest(self.key_of(an_id).encode(), key.encode()):
            raise NotFound(f"there is no worker and no lease {an_id} with this key; register and claim again")

    def _read_secret(self) -> bytes:
        """The installation's secret; threads that ask at the same time for the first time read the same."""
        if self._secret is None:
            with write_session(self._engine) as session:
                advisory_lock(session, _NAME)
                policy = session.get(Policy, _NAME)
                if policy is None:
                    value = {"secret": secrets.token_hex(32)}
                    policy = Policy(name=_NAME, value=value, changed_at=self._clock())
                    session.add(policy)
            self._secret = bytes.fromhex(policy.value["secret"])
        return self._secret
