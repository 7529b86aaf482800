"""Detection of lost workers for lists and forecasts, by this process's own observations of their rows.

No clock is compared with another one: a worker is lost when its row did not change for a lease on this process's
monotonic clock. (The reaper, which decides on jobs, observes their leases in the same way.)
"""

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from server.database.tables import Worker

FORGET_WORKERS_AFTER = timedelta(days=1)
"""Age of the last heartbeat from which a worker is no longer listed."""
CLOCK_TOLERANCE = timedelta(hours=3)
"""Age of a heartbeat, by the wall clock, up to which a worker that is observed for the first time counts as alive.

An older one counts as lost until its next heartbeat.
"""


class WorkerLiveness:
    """Which workers are alive, as one server observes them. Callable from any thread."""

    def __init__(self, lease_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds, self._monotonic = lease_seconds, monotonic
        self._observed: dict[str, tuple[datetime, float]] = {}
        """Last heartbeat of each worker, and when it was first seen here; long ago for one that was old already."""

    def is_lost(self, worker: Worker, now: datetime) -> bool:
        """Whether the worker sent no heartbeat for a lease."""
        heartbeat, since = self._observed.get(worker.id, (None, 0.0))
        if heartbeat == worker.last_seen_at:
            return self._monotonic() - since > self._lease_seconds
        is_old = heartbeat is None and now - worker.last_seen_at > CLOCK_TOLERANCE
        self._observed[worker.id] = (worker.last_seen_at, -math.inf if is_old else self._monotonic())
        return is_old
