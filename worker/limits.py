"""Limits of a worker that ends by itself, and its exit codes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from worker.settings import WorkerSettings


class ExitCode(IntEnum):
    """Exit code of a worker that ends without a fault. Without limits it is always 0."""

    DONE = 0
    """Each of its jobs succeeded, or was cancelled, paused or deleted by its owner."""
    JOB_FAILED = 4
    """A job failed, and is not retried."""
    NOTHING_RUN = 7
    """It ran no job: none came, or the one that it was to run has ended, is with another worker, or needs more."""
    HANDED_BACK = 8
    """A job went back to the queue, for a retry or because this worker was stopped: another worker continues it."""


@dataclass
class _Record:
    """Jobs and idle time of all places of a worker."""

    statuses: dict[str, JobStatus | None] = field(default_factory=dict)
    """Status of each job after this worker's last attempt; None for one that was deleted."""
    active_at: float = field(default_factory=time.monotonic)
    running: set[int] = field(default_factory=set)
    """Numbers of the places that run a job."""


@dataclass
class Limits:
    """Count of the jobs of a worker, or of one of its places, and the worker's idle time."""

    max_jobs: int | None
    job_id: str | None
    idle_seconds: float | None
    _num_jobs: int = 0
    _record: _Record = field(default_factory=_Record)
    _number: int = 0

    @classmethod
    def of(cls, settings: WorkerSettings) -> list["Limits"]:
        """The limits in a worker's settings, for each of its places: the number of jobs is divided among them."""
        job_id, idle_seconds, record = settings.worker_job, settings.exit_when_idle_seconds, _Record()
        places, total = settings.num_places, settings.worker_max_jobs
        shares = [None if total is None else (total + places - 1 - number) // places for number in range(places)]
        return [cls(share, job_id, idle_seconds, 0, record, number) for number, share in enumerate(shares)]

    def stay_active(self) -> None:
        """Start the idle time anew."""
        self._record.active_at = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context of a job: no place is idle for long while another one works."""
        self._record.running.add(self._number)
        try:
            yield
        finally:
            self._record.running.discard(self._number)
            self.stay_active()

    def add_attempt(self, job_id: str, status: JobStatus | None) -> None:
        """Count an attempt, after which the job has this status."""
        self._num_jobs += 1
        self._record.statuses[job_id] = status
        self.stay_active()

    @property
    def are_reached(self) -> bool:
        """Whether the worker has run its jobs."""
        return self.max_jobs is not None and self._num_jobs >= self.max_jobs

    @property
    def has_idled(self) -> bool:
        """Whether the worker was idle for long enough to end."""
        if self.idle_seconds is None or self._record.running:
            return False
        return time.monotonic() - self._record.active_at >= self.idle_seconds

    @property
    def exit_code(self) -> ExitCode:
        """Exit code for the jobs that ran, in all places."""
        if (self.max_jobs, self.job_id, self.idle_seconds) == (None, None, None):
            return ExitCode.DONE
        statuses = set(self._record.statuses.values())
        if not statuses:
            return ExitCode.NOTHING_RUN
        if JobStatus.FAILED in statuses:
            return ExitCode.JOB_FAILED
        if statuses & {JobStatus.QUEUED, *LEASED_STATUSES}:
            return ExitCode.HANDED_BACK
        return ExitCode.DONE
