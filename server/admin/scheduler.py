"""Periodic tasks of the server, each on a thread of its own, so that none delays another."""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from server.admin.retention import Retention
from server.database.engine import checkpoint_wal
from server.jobs.queue_timeout import QueueTimeout
from server.jobs.reaper import Leases, Reaper
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.transient_errors import first_line, is_transient
from server.uploads.service import UploadService
from server.webhooks.delivery import Deliverer

logger = structlog.get_logger(__name__)


EXPIRY_SECONDS = 300.0
CLEANUP_SECONDS = 60.0
MAX_THREADS = 18
"""Threads, and so database connections, that all periodic tasks together may use."""
STOP_SECONDS = 5.0
"""Time for running tasks to end when the server stops. A task that is cut off later is repeated by the next start."""
PeriodicTask = tuple[float, Callable[[], object]]
"""Interval in seconds, and the task."""


def reaper_of(leases: Leases, settings: ServerSettings) -> Reaper:
    """The reaper of leases, by the server's settings."""
    return Reaper(leases, settings.lease_seconds, max_gap=max(30.0, 3 * settings.reaper_seconds))


def reaper_interval(settings: ServerSettings) -> float:
    """Seconds between two sweeps."""
    return min(settings.reaper_seconds, settings.lease_seconds / 4)


class Scheduler:
    """Reaper, queue timeout, expiry of uploads and messages, retention, checkpoints of the write-ahead log."""

    def __init__(
        self,
        job_service: JobService,
        uploads: UploadService,
        deliverer: Deliverer,
        retention: Retention,
        settings: ServerSettings,
        *further_tasks: PeriodicTask,
        leads: Callable[[], bool] = lambda: True,
        on_every_server: Sequence[PeriodicTask] = (),
    ) -> None:
        """`leads`: whether this server, of several on one database, runs the tasks; some run on every server."""
        self._leads = leads
        tasks: list[PeriodicTask] = [
            (reaper_interval(settings), reaper_of(job_service, settings).sweep),
            (settings.checkpoint_seconds, lambda: checkpoint_wal(job_service.engine)),
            (EXPIRY_SECONDS, uploads.expire),
            (EXPIRY_SECONDS, deliverer.delete_old),
            (settings.retention_seconds, retention.apply),
            *further_tasks,
        ]
        if (limit := settings.queue_timeout_seconds) is not None:
            tasks.append((settings.reaper_seconds, QueueTimeout(job_service, limit).sweep))
        num_tasks = len(tasks) + len(on_every_server)
        if num_tasks > MAX_THREADS:
            raise ValueError(f"{num_tasks} periodic tasks, and connections for {MAX_THREADS}")
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(*task, needs_lead), daemon=True)
            for needs_lead, each in ((True, tasks), (False, on_every_server))
            for task in each
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads, and wait for their running tasks for a while."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _repeat(self, seconds: float, task: Callable[[], object], needs_lead: bool) -> None:
        due = time.monotonic() + seconds
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + seconds
            if needs_lead and not self._leads():
                continue
            try:
                task()
            except Exception as error:
                if is_transient(error):
                    logger.warning("periodic task failed; retrying later", reason=first_line(error))
                else:
                    logger.exception("periodic task failed; retrying later")
