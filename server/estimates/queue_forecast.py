"""Forecast of the queue: when waiting jobs will start and jobs will end, as ranges.

Simulates the queue twice, best case and worst case: the first job goes to the worker that is free first.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col, select

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus, Range
from server.database.tables import Job, Worker
from server.estimates.estimator import AudioStats, Estimator, EstimatorContext, audio_stats

MAX_SIMULATED_JOBS = 300
"""Of a longer queue, nothing is told of those behind."""
_RUNNING_SPREAD = (0.8, 1.3)
"""Around the time that a running engine says it still needs."""


@dataclass(frozen=True)
class JobForecast:
    """The forecast of one job."""

    starts_in: Range | None = None
    eta: Range | None = None


@dataclass(frozen=True)
class _WorkerWaits:
    """How long until each worker is free, in seconds."""

    low: list[float]
    high: list[float]


class QueueForecast:
    """Forecasts of the queue, in the caller's transaction."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    def forecasts(self, session: Session, jobs: Sequence[Job], now: datetime) -> dict[int | None, JobForecast]:
        """The forecasts of these jobs, by number; none for those that have ended."""
        if not any(job.status in LEASED_STATUSES or job.status == JobStatus.QUEUED for job in jobs):
            return {}
        context = self.estimator.context(session, now)
        found: dict[int | None, JobForecast] = {}
        running = [job for job in jobs if job.status in LEASED_STATUSES]
        audio_by_dataset = audio_stats(session, {job.dataset_id for job in running})
        for job in running:
            found[job.number] = JobForecast(eta=_remaining(job, context, audio_by_dataset.get(job.dataset_id)))
        if any(job.status == JobStatus.QUEUED for job in jobs):
            found |= self._waiting(session, context, now)
        return found

    def new_job_starts_in(self, session: Session, priority: int, now: datetime) -> Range | None:
        """How long a job that is submitted now would wait; None while no worker lives, or nothing can be told."""
        context = self.estimator.context(session, now)
        wait = self._free_workers(session, context, now)
        ahead = [job for job in _queue(session) if job.priority >= priority]
        if len(ahead) >= MAX_SIMULATED_JOBS:
            return None
        self._simulate(session, context, wait, ahead)
        return Range(low=wait.low[0], high=wait.high[0]) if wait.low else None

    def _waiting(self, session: Session, context: EstimatorContext, now: datetime) -> dict[int | None, JobForecast]:
        return self._simulate(session, context, self._free_workers(session, context, now), _queue(session))

    def _free_workers(self, session: Session, context: EstimatorContext, now: datetime) -> _WorkerWaits:
        workers = self.estimator.workers(session, now)
        busy = _jobs_of(session, workers)
        audio_by_dataset = audio_stats(session, {job.dataset_id for job in busy.values()})
        low, high = [], []
        for worker in workers:
            job = busy.get(worker.id)
            left = (
                Range(low=0, high=0) if job is None else _remaining(job, context, audio_by_dataset.get(job.dataset_id))
            )
            if left is not None:
                low.append(left.low)
                high.append(left.high)
        heapq.heapify(low)
        heapq.heapify(high)
        return _WorkerWaits(low, high)

    @staticmethod
    def _simulate(
        session: Session, context: EstimatorContext, wait: _WorkerWaits, queue: Sequence[Job]
    ) -> dict[int | None, JobForecast]:
        """Give each job to the worker that is free first; stops at the first job of which nothing can be told."""
        audio_by_dataset = audio_stats(session, {job.dataset_id for job in queue})
        found: dict[int | None, JobForecast] = {}
        for job in queue:
            if not wait.low:
                break
            starts_in = Range(low=wait.low[0], high=wait.high[0])
            takes = _total_seconds(job, context, audio_by_dataset.get(job.dataset_id))
            if takes is None:
                found[job.number] = JobForecast(starts_in)
                wait.low.clear()
                break
            end = Range(low=starts_in.low + takes.low, high=starts_in.high + takes.high)
            found[job.number] = JobForecast(starts_in, end)
            heapq.heapreplace(wait.low, end.low)
            heapq.heapreplace(wait.high, end.high)
        return found


def _queue(session: Session) -> Sequence[Job]:
    query = select(Job).where(Job.status == JobStatus.QUEUED).order_by(col(Job.priority).desc(), col(Job.number))
    return session.exec(query.limit(MAX_SIMULATED_JOBS)).all()


def _jobs_of(session: Session, workers: Sequence[Worker]) -> dict[str, Job]:
    query = sa.select(Job).where(col(Job.worker_id).in_([worker.id for worker in workers]))
    return {job.worker_id or "": job for job in session.execute(query).scalars()}


def _total_seconds(job: Job, context: EstimatorContext, audio: AudioStats | None) -> Range | None:
    """Seconds of a job that waits; one that was begun needs only its rest."""
    if audio is None:
        return None
    try:
        config = TrainingConfig.model_validate(job.config)
    except ValidationError:  # of another version: a worker will say so
        return None
    seconds = context.workload(config, audio).seconds
    left = 1 - job.progress
    return Range(low=seconds.low * left, high=seconds.high * left)


def _remaining(job: Job, context: EstimatorContext, audio: AudioStats | None) -> Range | None:
    """Seconds until a running job's end: as its engine says, or as others took."""
    if job.eta_seconds is None:
        return _total_seconds(job, context, audio)
    after = context.throughput.last_stages(context.devices) if job.stage == "train" else Range(low=0, high=0)
    low, high = (factor * job.eta_seconds for factor in _RUNNING_SPREAD)
    return Range(low=low + after.low, high=high + after.high)
