"""Limits of a worker that ends by itself, and its exit codes."""

import time
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
class Limits:
    """Count of a worker's jobs, and its idle time."""

    max_jobs: int | None
    job_id: str | None
    idle_seconds: float | None
    _num_jobs: int = 0
    _statuses: dict[str, JobStatus | None] = field(default_factory=dict)
    """Status of each job after this worker's last attempt; None for one that was deleted."""
    _active_at: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, settings: WorkerSettings) -> "Limits":
        """The limits in a worker's settings."""
        return cls(settings.worker_max_jobs, settings.worker_job, settings.exit_when_idle_seconds)

    def stay_active(self) -> None:
        """Start the idle time anew."""
        self._active_at = time.monotonic()

    def add_attempt(self, job_id: str, status: JobStatus | None) -> None:
        """Count an attempt, after which the job has this status."""
        self._num_jobs += 1
        self._statuses[job_id] = status
        self.stay_active()

    @property
    def are_reached(self) -> bool:
        """Whether the worker has run its jobs."""
        return self.max_jobs is not None and self._num_jobs >= self.max_jobs

    @property
    def has_idled(self) -> bool:
        """Whether the worker was idle for long enough to end."""
        return self.idle_seconds is not None and time.monotonic() - self._active_at >= self.idle_seconds

    @property
    def exit_code(self) -> ExitCode:
        """Exit code for the jobs that ran."""
        if (self.max_jobs, self.job_id, self.idle_seconds) == (None, None, None):
            return ExitCode.DONE
        statuses = set(self._statuses.values())
        if not statuses:
            return ExitCode.NOTHING_RUN
        if JobStatus.FAILED in statuses:
            return ExitCode.JOB_FAILED
        if statuses & {JobStatus.QUEUED, *LEASED_STATUSES}:
            return ExitCode.HANDED_BACK
        return ExitCode.DONE
