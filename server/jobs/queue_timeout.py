"""The end of jobs that no worker takes, by this process's own observations on its own monotonic clock.

Nothing is decided by comparing two clocks: a wall clock that is set back or forth ends no job.
"""

import time
from collections.abc import Callable

from server.jobs.service import JobService, QueuedJob

LOOKS = 100
"""Readings of the queue within the time: each reads all queued jobs, so a long time has few of them."""


class QueueTimeout:
    """Fails the jobs that waited in the queue for longer than `seconds`, when `sweep` is called every few seconds."""

    def __init__(
        self, job_service: JobService, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._jobs = job_service
        self._seconds = seconds
        self._monotonic = monotonic
        self._since: dict[QueuedJob, float] | None = None
        """When each queued job was first seen."""
        self._read_at = 0.0

    def sweep(self) -> int:
        """Fail the jobs whose time is over; returns their number.

        The waiting time of jobs found by the first sweep is that of the wall clock, so that restarts of the server do
        not prolong it; that of all others begins when they were first seen.
        """
        now = self._monotonic()
        if self._since is None or now - self._read_at >= self._seconds / LOOKS:
            self._since, self._read_at = self._seen(now), now
        late = [job for job, since in self._since.items() if now - since > self._seconds]
        for job in late:
            del self._since[job]
        return sum(self._jobs.fail_queued(job, self._seconds) for job in late)

    def _seen(self, now: float) -> dict[QueuedJob, float]:
        waited = self._jobs.seconds_queued()
        if self._since is None:
            return {job: now - max(0.0, seconds) for job, seconds in waited.items()}
        return {job: self._since.get(job, now) for job in waited}
