"""Forecasts of the queue: when jobs start and end, as the likeliest number of seconds with bounds.

Times come from `durations`: where that has none a time is None, unknown.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.jobs import LEASED_STATUSES, Range
from server.database.engine import SCHEMA_VERSION
from server.database.tables import Job, Worker
from server.estimates.calibrations import Calibrations
from server.estimates.durations import MAX_JOBS, SPREAD, Durations, MeasuredJob, Span
from server.estimates.queue_places import QueuePlaces
from server.job_store.leases import IS_QUEUED, QUEUE_ORDER
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness

_FORECAST: tuple[Any, ...] = (Job.number, Job.priority, Job.dataset_id, Job.config, Job.progress, Job.eta_seconds)
_NOW, _UNKNOWN = Span(0.0, 0.0, 0.0), Span(0.0, math.inf, math.inf)


@dataclass(frozen=True)
class JobForecast:
    """Forecast of one job; None: unknown."""

    starts_in: Range | None = None
    eta: Range | None = None


class Estimator:
    """Forecasts and comparable jobs, in the caller's transaction."""

    def __init__(self, liveness: WorkerLiveness | None = None, calibrations: Calibrations | None = None) -> None:
        """`liveness`: lost workers are not counted. None: with the default lease."""
        self._liveness = liveness or WorkerLiveness(60)
        self.places = QueuePlaces()
        self.durations = Durations(calibrations)

    def live_workers(self, session: Session, now: datetime) -> Sequence[Worker]:
        """Workers that are alive and claim jobs."""
        query = sa.select(Worker).where(col(Worker.stopped_at).is_(None), ~col(Worker.is_draining))
        query = query.where(sa.func.coalesce(col(Worker.schema_version), SCHEMA_VERSION) == SCHEMA_VERSION)
        workers = session.execute(query.where(col(Worker.last_seen_at) > now - FORGET_WORKERS_AFTER)).scalars()
        return [worker for worker in workers if not self._liveness.is_lost(worker, now)]

    def comparable(self, session: Session, config: Mapping[str, Any], workers: Iterable[Worker]) -> list[MeasuredJob]:
        """Measured jobs with the same settings on the workers' devices; on any device where these are not known."""
        return self.durations.comparable(session, config, workers)

    def forecasts(
        self, session: Session, jobs: Sequence[Job | sa.Row[Any]], now: datetime, places: Mapping[int | None, int]
    ) -> dict[int | None, JobForecast]:
        """Forecasts by the jobs' numbers; none for jobs that are neither queued nor running.

        `places`: those of the queued ones; a job is not simulated further than to the last of them.
        """
        leased = [job for job in jobs if job.status in LEASED_STATUSES]
        left = self._seconds_left(session, leased, self.live_workers(session, now)) if leased else {}
        found = {number: JobForecast(eta=seconds.public()) for number, seconds in left.items()}
        last = max((place for place in places.values() if place <= MAX_JOBS), default=0)
        return found | self._simulate(session, now, num_jobs=last)[0] if last else found

    def starts_in(self, session: Session, priority: int, now: datetime) -> Range | None:
        """Seconds that a job submitted now would wait."""
        return self._simulate(session, now, priority)[1]

    def _simulate(
        self, session: Session, now: datetime, least_priority: float = -math.inf, num_jobs: int = MAX_JOBS
    ) -> tuple[dict[int | None, JobForecast], Range | None]:
        """Give each queued job to the first free worker, at best, as is likely and at worst.

        Returns its forecast, and the wait after all.
        """
        workers = self.live_workers(session, now)
        if not workers:
            return {}, None
        rows = session.execute(sa.select(*_FORECAST).where(IS_QUEUED).order_by(*QUEUE_ORDER).limit(num_jobs)).all()
        queue = [job for job in rows if job.priority >= least_priority]
        held_by = col(Job.worker_id).in_([worker.id for worker in workers])
        busy = session.execute(sa.select(*_FORECAST).where(held_by)).all()
        left = self._seconds_left(session, [*busy, *queue], workers)
        workers_free = _Workers([left[job.number] for job in busy] + [_NOW] * (len(workers) - len(busy)))
        found: dict[int | None, JobForecast] = {}
        for job in queue:
            starts_in = workers_free.next
            workers_free.take(left[job.number])
            found[job.number] = JobForecast(starts_in.public(), (starts_in + left[job.number]).public())
        return found, workers_free.next.public() if len(queue) < MAX_JOBS else None

    def _seconds_left(
        self, session: Session, jobs: Sequence[Job | sa.Row[Any]], workers: Sequence[Worker]
    ) -> dict[int | None, Span]:
        """Seconds until the jobs end; without an end where nothing is known of them."""
        sounds = self.durations.sounds(session, (job.dataset_id for job in jobs))
        found: dict[int | None, Span] = {}
        for job in jobs:
            sound, found[job.number] = sounds.get(job.dataset_id), _UNKNOWN
            if job.eta_seconds is not None:
                found[job.number] = Span.around([job.eta_seconds], SPREAD)
            elif sound is not None and (workload := self.durations.of(session, job.config, sound, workers)):
                left, all_of_it = workload.seconds * (1 - job.progress), workload.seconds
                is_auto = job.config.get("total_epochs") == "auto"  # its progress is until the earliest end
                found[job.number] = Span(left.low, left.likely, all_of_it.high) if is_auto else left
        return found


class _Workers:
    """When workers are free, in three simulations beside each other."""

    def __init__(self, free_in: Sequence[Span]) -> None:
        self._lows = sorted(span.low for span in free_in)
        self._likelies = sorted(span.likely for span in free_in)
        self._highs = sorted(span.high for span in free_in)

    @property
    def next(self) -> Span:
        """When the first is free."""
        return Span(self._lows[0], self._likelies[0], self._highs[0])

    def take(self, seconds: Span) -> None:
        """Give the first free worker a job."""
        end = self.next + seconds
        for heap, number in ((self._lows, end.low), (self._likelies, end.likely), (self._highs, end.high)):
            heapq.heapreplace(heap, number)
