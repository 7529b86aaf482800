"""Forecasts of the queue: when jobs start and end, as the likeliest number of seconds with bounds.

Times come from `durations`: where that has none a time is None, unknown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus, Range
from server.database.engine import SCHEMA_VERSION
from server.database.tables import Job, Worker
from server.estimates.calibrations import Calibrations
from server.estimates.durations import MAX_JOBS, SPREAD, Durations, MeasuredJob, Span
from server.estimates.queue_places import QueuePlaces, QueueView, Waiting, waiting
from server.estimates.waits import NOW, Simulation, needed_numbers
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness
from server.scheduling.queue import IS_QUEUED
from server.scheduling.resources import lacking, parse_needs

_FORECAST: tuple[Any, ...] = (
    *(Job.number, Job.needs, Job.worker_id, Job.dataset_id, Job.config, Job.progress, Job.eta_seconds),
)
_CLAIMING = sa.select(Worker).where(
    col(Worker.stopped_at).is_(None),
    ~col(Worker.is_draining),
    sa.func.coalesce(col(Worker.schema_version), SCHEMA_VERSION) == SCHEMA_VERSION,
    col(Worker.last_seen_at) > sa.bindparam("since"),
)
"""Made once, for every answer on a queued job."""
_UNKNOWN = Span(0.0, math.inf, math.inf)
_LAST_NUMBER = 2**31 - 1  # of a job that is not submitted yet; PostgreSQL takes no larger one in this column


@dataclass(frozen=True)
class JobForecast:
    """Forecast of one job; None: unknown."""

    starts_in: Range | None = None
    eta: Range | None = None
    lacking: Sequence[str] = ()
    """Reasons why none of the present workers could ever take it."""


class Estimator:
    """Forecasts and comparable jobs, in the caller's transaction."""

    def __init__(self, liveness: WorkerLiveness | None = None, calibrations: Calibrations | None = None) -> None:
        """`liveness`: lost workers are not counted. None: with the default lease."""
        self._liveness = liveness or WorkerLiveness(60)
        self.places = QueuePlaces()
        self.durations = Durations(calibrations)

    def live_workers(self, session: Session, now: datetime) -> Sequence[Worker]:
        """Workers that are alive and claim jobs."""
        workers = session.execute(_CLAIMING, {"since": now - FORGET_WORKERS_AFTER}).scalars()
        return [worker for worker in workers if not self._liveness.is_lost(worker, now)]

    def comparable(self, session: Session, config: Mapping[str, Any], workers: Iterable[Worker]) -> list[MeasuredJob]:
        """Measured jobs with the same settings on the workers' devices; on any device where these are not known."""
        return self.durations.comparable(session, config, workers)

    def forecasts(
        self, session: Session, jobs: Sequence[Job | sa.Row[Any]], now: datetime, view: QueueView
    ) -> dict[int | None, JobForecast]:
        """Forecasts by the jobs' numbers; none for jobs that are neither queued nor running.

        Jobs that may have a place behind the first `MAX_JOBS` are not simulated.
        """
        leased = [job for job in jobs if job.status in LEASED_STATUSES]
        queued = [waiting(job) for job in jobs if job.status == JobStatus.QUEUED]
        if not (leased or queued):
            return {}
        workers = self.live_workers(session, now)
        left = self._seconds_left(session, leased, workers)
        found = {number: JobForecast(eta=seconds.public()) for number, seconds in left.items()}
        starts, takes = self._starts(session, queued, workers, view)
        for job in queued:
            forecast = JobForecast(lacking=lacking(parse_needs(job.needs), workers))
            if job.number in starts and job.number in takes:
                start, end = starts[job.number], starts[job.number] + takes[job.number]
                forecast = replace(forecast, starts_in=start.public(), eta=end.public())
            found[job.number] = forecast
        return found

    def starts_in(self, session: Session, owner: str, priority: int, needs: str, now: datetime) -> Range | None:
        """Seconds that a job submitted now would wait."""
        job = Waiting(_LAST_NUMBER, owner, priority, needs)
        starts, _ = self._starts(session, [job], self.live_workers(session, now), self.places.view(session, now))
        return starts[job.number].public() if starts else None

    def _starts(
        self, session: Session, jobs: Sequence[Waiting], workers: Sequence[Worker], view: QueueView
    ) -> tuple[dict[int, Span], dict[int, Span]]:
        """Starts of waiting jobs, and durations, by their numbers; none of those too far behind."""
        jobs = [job for job in jobs if view.place(job) <= MAX_JOBS]
        if not (jobs and workers):
            return {}, {}
        numbers = needed_numbers(view, jobs)
        rows = session.execute(sa.select(*_FORECAST).where(IS_QUEUED, col(Job.number).in_(numbers))).all()
        held_by = col(Job.worker_id).in_([worker.id for worker in workers])
        busy = session.execute(sa.select(*_FORECAST).where(held_by)).all()
        left = self._seconds_left(session, [*busy, *rows], workers)
        busy_for = {job.worker_id: left[job.number] for job in busy}
        seconds = {job.number: left[job.number] for job in rows}
        needs = {job.number: job.needs for job in rows}
        free_in = [(worker, busy_for.get(worker.id, NOW)) for worker in workers]
        return Simulation(view, needs, seconds, free_in).starts(jobs), seconds

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
