"""Finds jobs whose worker is lost: by what this process has itself seen, on its own monotonic clock.

A worker is lost when its job's heartbeat stood still for a whole lease while we were watching. Neither a clock that was
set, nor a server that slept or has just started, takes a job from a living worker that way.
"""

import time
from collections.abc import Callable

import structlog

from server.job_store.leases import ActiveLease
from server.jobs.service import JobService

logger = structlog.get_logger(__name__)


class Reaper:
    """Call `sweep` every few seconds."""

    def __init__(
        self,
        job_service: JobService,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        max_gap: float = 30,
    ) -> None:
        """`max_gap`: after a pause between two sweeps longer than this (seconds), what was seen before is forgotten."""
        self._jobs = job_service
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._max_gap = max_gap
        self._first_seen: dict[ActiveLease, float] = {}
        self._last_sweep = monotonic()

    def sweep(self) -> int:
        """Take jobs from lost workers; returns how many."""
        now = self._monotonic()
        if now - self._last_sweep > self._max_gap:  # we were asleep: heartbeats may have come and gone unseen
            self._first_seen.clear()
        self._last_sweep = now
        self._first_seen = {lease: self._first_seen.get(lease, now) for lease in self._jobs.active_leases()}
        num_taken = 0
        for lease, since in self._first_seen.items():
            if now - since >= self._lease_seconds:
                status = self._jobs.requeue_lost(lease)
                if status is not None:
                    logger.warning("a worker was lost", job_id=lease.job_id, status=str(status))
                    num_taken += 1
        return num_taken
