"""Detection of lost workers, by this process's own observations on its own monotonic clock.

A worker is lost when the heartbeat of its job or conversion did not change for a whole lease under observation. Neither
a change of the wall clock nor a suspended or restarted server therefore takes a job from a live worker.
"""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import structlog

from server.job_store.leases import ActiveLease

logger = structlog.get_logger(__name__)


class Leases(Protocol):
    """Leases of jobs, or of conversions."""

    def active_leases(self) -> Sequence[ActiveLease]:
        """The active leases."""

    def requeue_lost(self, lease: ActiveLease) -> StrEnum | None:
        """End the lease of a lost worker; returns the new status, or None after a newer heartbeat."""


class Reaper:
    """Ends the leases of lost workers, when `sweep` is called every few seconds."""

    def __init__(
        self,
        leases: Leases,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        max_gap: float = 30,
    ) -> None:
        """`max_gap`: seconds between two sweeps; after a longer gap, earlier observations are discarded."""
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._max_gap = max_gap
        self._first_seen: dict[ActiveLease, float] = {}
        self._last_sweep = monotonic()

    def sweep(self) -> int:
        """End the leases of lost workers; returns their number."""
        now = self._monotonic()
        if now - self._last_sweep > self._max_gap:  # the process was suspended: heartbeats may have been missed
            self._first_seen.clear()
        self._last_sweep = now
        self._first_seen = {lease: self._first_seen.get(lease, now) for lease in self._leases.active_leases()}
        num_taken = 0
        for lease, since in self._first_seen.items():
            if now - since >= self._lease_seconds:
                status = self._leases.requeue_lost(lease)
                if status is not None:
                    logger.warning("the worker was lost", id=lease.id, status=str(status))
                    num_taken += 1
        return num_taken
