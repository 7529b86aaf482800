"""Forecasts of the queue: when jobs start and end, as ranges of seconds.

Times come from jobs that succeeded on this server with the same settings, on a device of a live worker. Without such a
job a time is None: unknown.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus, Range
from server.database.engine import SCHEMA_VERSION
from server.database.tables import Attempt, Dataset, Job, Worker
from server.estimates.queue_places import QueuePlaces, QueueView, Waiting, waiting
from server.estimates.waits import Bounds, Simulation, Start, needed_numbers
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness
from server.scheduling.queue import IS_QUEUED
from server.scheduling.resources import lacking, parse_needs

MAX_JOBS = 300  # newest measured jobs to compare with, and first places in the queue to simulate
MAX_ATTEMPTS = 10_000  # newest attempts among which measured jobs are looked for
CACHE_SECONDS = 20.0
SPREAD = (0.8, 1.3)  # around measured times: machines are shared, and clips differ in length
_STEP = ("version", "sample_rate", "f0", "width", "batch_size", "accumulate_steps", "precision", "tf32")
_FORECAST: tuple[Any, ...] = (
    *(Job.number, Job.needs, Job.worker_id, Job.dataset_id, Job.config, Job.progress, Job.eta_seconds),
)
_LAST_NUMBER = 2**62  # of a job that is not submitted yet
_KIND = (*_STEP, "gradient_checkpointing", "pitch", "content", "evaluate")  # settings that decide a job's duration
_CUTTING = {"slicing": "auto", "slice_seconds": None, "slice_overlap_seconds": None}  # jobs of before lack them


@dataclass(frozen=True)
class JobForecast:
    """Forecast of one job; None: unknown."""

    starts_in: Range | None = None
    eta: Range | None = None
    lacking: Sequence[str] = ()
    """Reasons why none of the present workers could ever take it."""


@dataclass(frozen=True)
class MeasuredJob:
    """Measurements of a job that succeeded in one attempt."""

    device_name: str | None
    audio_seconds: float
    steps_per_epoch: float
    step_seconds: float
    other_seconds: float  # of the attempt, outside of training steps

    def workload(self, config: Mapping[str, Any], audio_seconds: float) -> tuple[float, float]:
        """Steps and seconds of a job with the same settings on a dataset of another length."""
        scale, limit = audio_seconds / self.audio_seconds, config.get("max_train_seconds") or math.inf
        steps = min(max(1, round(self.steps_per_epoch * scale)) * config["total_epochs"], limit / self.step_seconds)
        return steps, steps * self.step_seconds + self.other_seconds * scale


class Estimator:
    """Forecasts and comparable jobs, in the caller's transaction."""

    def __init__(self, liveness: WorkerLiveness | None = None) -> None:
        """`liveness`: lost workers are not counted. None: with the default lease."""
        self._liveness = liveness or WorkerLiveness(60)
        self.places = QueuePlaces()
        self._measured: dict[tuple[Any, ...], list[MeasuredJob]] = {}
        self._measured_at = -math.inf

    def live_workers(self, session: Session, now: datetime) -> Sequence[Worker]:
        """Workers that are alive and claim jobs."""
        query = sa.select(Worker).where(col(Worker.stopped_at).is_(None), ~col(Worker.is_draining))
        query = query.where(sa.func.coalesce(col(Worker.schema_version), SCHEMA_VERSION) == SCHEMA_VERSION)
        workers = session.execute(query.where(col(Worker.last_seen_at) > now - FORGET_WORKERS_AFTER)).scalars()
        return [worker for worker in workers if not self._liveness.is_lost(worker, now)]

    def comparable(self, session: Session, config: Mapping[str, Any], workers: Iterable[Worker]) -> list[MeasuredJob]:
        """Measured jobs with the same settings on the workers' devices; on any device where these are not known."""
        if time.monotonic() - self._measured_at > CACHE_SECONDS:  # no lock: its holder could wait for a connection
            self._measured, self._measured_at = _measured_jobs(session), time.monotonic()
        devices = {worker.device_name for worker in workers} - {None}
        return [job for job in self._measured.get(_kind(config), ()) if not devices or job.device_name in devices]

    def forecasts(
        self, session: Session, jobs: Sequence[Job], now: datetime, view: QueueView
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
        found = {number: JobForecast(eta=_range(*seconds)) for number, seconds in left.items()}
        starts, takes = self._starts(session, queued, workers, view)
        for job in queued:
            forecast = JobForecast(lacking=lacking(parse_needs(job.needs), workers))
            if job.number in starts and job.number in takes:
                (low, high), (least, most) = starts[job.number], takes[job.number]
                forecast = replace(forecast, starts_in=_range(low, high), eta=_range(low + least, high + most))
            found[job.number] = forecast
        return found

    def starts_in(self, session: Session, owner: str, priority: int, needs: str, now: datetime) -> Range | None:
        """Seconds that a job submitted now would wait."""
        job = Waiting(_LAST_NUMBER, owner, priority, needs)
        starts, _ = self._starts(session, [job], self.live_workers(session, now), self.places.view(session, now))
        return _range(*starts[job.number]) if starts else None

    def _starts(
        self, session: Session, jobs: Sequence[Waiting], workers: Sequence[Worker], view: QueueView
    ) -> tuple[dict[int, Start], dict[int, Bounds]]:
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
        free_in = [(worker, busy_for.get(worker.id, (0.0, 0.0))) for worker in workers]
        return Simulation(view, needs, seconds, free_in).starts(jobs), seconds

    def _seconds_left(
        self, session: Session, jobs: Sequence[Job | sa.Row[Any]], workers: Sequence[Worker]
    ) -> dict[int | None, Bounds]:
        """Seconds until the jobs end, at least and at most; (0, infinity) where nothing comparable was measured."""
        lengths = sa.select(col(Dataset.id), col(Dataset.seconds))
        rows = session.execute(lengths.where(col(Dataset.id).in_({job.dataset_id for job in jobs})))
        length_of = {row[0]: row[1] for row in rows}
        found: dict[int | None, Bounds] = {}
        for job in jobs:
            if job.eta_seconds is not None:
                seconds = [job.eta_seconds]
            else:
                measured, length = self.comparable(session, job.config, workers), length_of[job.dataset_id]
                seconds = [(1 - job.progress) * each.workload(job.config, length)[1] for each in measured if length]
            found[job.number] = (SPREAD[0] * min(seconds), SPREAD[1] * max(seconds)) if seconds else (0.0, math.inf)
        return found


def _kind(config: Mapping[str, Any]) -> tuple[Any, ...]:
    cutting = [config.get(name, default) for name, default in _CUTTING.items()]
    return (*(config.get(name) for name in _KIND), *(cutting if cutting[0] == "fixed" else cutting[:1]))


def _range(low: float, high: float) -> Range | None:
    return None if math.isinf(high) else Range(low=low, high=high)


def _measured_jobs(session: Session) -> dict[tuple[Any, ...], list[MeasuredJob]]:
    """Newest jobs that succeeded in one attempt, by kind; without those that continued the training of another job."""
    query = (
        sa.select(Job, Attempt, col(Dataset.seconds))
        .where(col(Attempt.job_number) == col(Job.number), col(Dataset.id) == col(Job.dataset_id))
        .where(col(Attempt.attempt) == 1, col(Attempt.outcome) == JobStatus.SUCCEEDED, col(Dataset.seconds) > 0)
        .where(col(Attempt.step_seconds) > 0, col(Job.total_steps) > 0, col(Job.total_epochs) > 0)
        .where(sa.func.coalesce(col(Job.retry_from), "start") == "start")
        .where(col(Attempt.id) > sa.select(sa.func.max(col(Attempt.id))).scalar_subquery() - MAX_ATTEMPTS)
    )
    found: dict[tuple[Any, ...], list[MeasuredJob]] = {}
    for job, attempt, length in session.execute(query.order_by(col(Job.number).desc()).limit(MAX_JOBS)):
        seconds = (attempt.ended_at - attempt.started_at).total_seconds()
        other = max(0.0, seconds - attempt.step_seconds * (job.step or job.total_steps))
        numbers = (length, job.total_steps / job.total_epochs, attempt.step_seconds, other)
        found.setdefault(_kind(job.config), []).append(MeasuredJob(attempt.device_name, *numbers))
    return found
