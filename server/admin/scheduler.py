"""Periodic tasks of the server, on two threads."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from server.admin.retention import Retention
from server.database.clock import utc_now
from server.database.engine import checkpoint_wal
from server.jobs.reaper import Reaper
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.uploads.service import UploadService
from server.webhooks.delivery import Deliverer

logger = structlog.get_logger(__name__)


EXPIRY_SECONDS = 300.0
CLEANUP_SECONDS = 60.0
NUM_THREADS = 2
PeriodicTask = tuple[float, Callable[[], object]]
"""Interval in seconds, and the task."""


class SteadyClock:
    """The wall clock at the start plus monotonic time, so that a clock set forward does not time out queued jobs."""

    def __init__(self, wall: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._start, self._started, self._monotonic = wall(), monotonic(), monotonic

    def __call__(self) -> datetime:
        """The current time, with its zone."""
        return self._start + timedelta(seconds=self._monotonic() - self._started)


class Scheduler:
    """Two threads: the reaper has its own, so that no slow task delays the jobs of lost workers.

    The other runs queue timeouts, expiry of uploads and messages, retention, and checkpoints of the write-ahead log.
    """

    def __init__(
        self,
        job_service: JobService,
        uploads: UploadService,
        deliverer: Deliverer,
        retention: Retention,
        settings: ServerSettings,
        *further_tasks: PeriodicTask,
    ) -> None:
        """`further_tasks`: tasks added to the second thread."""
        reaper = Reaper(job_service, settings.lease_seconds, max_gap=max(30.0, 3 * settings.reaper_seconds))
        reaping: list[PeriodicTask] = [(min(settings.reaper_seconds, settings.lease_seconds / 4), reaper.sweep)]
        tasks: list[PeriodicTask] = [
            (settings.checkpoint_seconds, lambda: checkpoint_wal(job_service.engine)),
            (EXPIRY_SECONDS, uploads.expire),
            (EXPIRY_SECONDS, deliverer.delete_old),
            (settings.retention_seconds, retention.apply),
            *further_tasks,
        ]
        if (limit := settings.queue_timeout_seconds) is not None:
            steady = JobService(job_service.engine, SteadyClock())
            tasks.append((settings.reaper_seconds, lambda: steady.time_out_queued(limit)))
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(own_tasks,), name=name, daemon=True)
            for name, own_tasks in (("reaper", reaping), ("scheduler", tasks))
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads, after their running tasks."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self, tasks: Sequence[PeriodicTask]) -> None:
        due = [time.monotonic() + seconds for seconds, _ in tasks]
        while not self._stopping.wait(max(0.0, min(due) - time.monotonic())):
            now = time.monotonic()
            for i, (seconds, task) in enumerate(tasks):
                if due[i] > now:
                    continue
                due[i] = now + seconds
                try:
                    task()
                except Exception:
                    logger.exception("periodic task failed; retrying later")
