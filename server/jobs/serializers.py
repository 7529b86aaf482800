"""Serialization of jobs, the queue and the workers: from rows, with queue forecasts, to wire shapes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.errors import FailureCode
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobError, JobPublic, JobResources, JobStatus
from rvc_train.schemas.queue import QueueEntry, QueuePublic
from rvc_train.schemas.workers import WorkerPublic
from server.database.engine import SCHEMA_VERSION
from server.database.result_tables import Artifact, StoredFileRow
from server.database.tables import Dataset, Event, Job, JobConsent, Worker
from server.estimates.estimates import Estimator, JobForecast
from server.estimates.queue_places import QueueView
from server.job_store.counts import counts
from server.job_store.leases import IS_LEASED
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness
from server.job_store.serializers import content_notice
from server.scheduling.queue import IS_QUEUED, QUEUE_ORDER
from server.scheduling.resources import parse_needs

NUM_QUEUED_SHOWN = 100
_SAME_IN_BOTH = frozenset(Job.model_fields) & frozenset(JobPublic.model_fields) - {
    "losses",
    "weights_progress",
    "resources",
}
"""Fields that the answer has as the row has them."""


def _of_job(value: Any, *where: Any) -> Any:
    """A subquery of `value` in the rows of another table that belong to a job."""
    return sa.select(value).where(*where).correlate(Job).scalar_subquery()


_DETAILS = sa.select(
    col(Job.number),
    _of_job(sa.func.count(), col(Artifact.job_number) == col(Job.number)).label("num_artifacts"),
    _of_job(sa.func.sum(col(StoredFileRow.bytes)), col(StoredFileRow.job_number) == col(Job.number)).label(
        "disk_bytes"
    ),
    _of_job(col(Event.created_at), col(Event.job_number) == col(Job.number), col(Event.seq) == col(Job.last_seq)).label(
        "updated_at"
    ),
    _of_job(col(Dataset.status), col(Dataset.id) == col(Job.dataset_id)).label("dataset_status"),
    _of_job(col(JobConsent.consent), col(JobConsent.job_number) == col(Job.number)).label("consent"),
    _of_job(col(Dataset.deleted_at), col(Dataset.id) == col(Job.dataset_id)).label("dataset_deleted_at"),
).where(col(Job.number).in_(sa.bindparam("numbers", expanding=True)))
"""One statement, made once: making and running one takes about a millisecond, whatever the number of rows."""


def jobs_public(session: Session, jobs: Sequence[Job], estimator: Estimator, now: datetime) -> list[JobPublic]:
    """Jobs in their public form, with their places in the queue and their forecasts."""
    if not jobs:
        return []
    is_waiting = any(job.status == JobStatus.QUEUED for job in jobs)
    view = estimator.places.view(session, now) if is_waiting else QueueView({}, {})
    places, forecasts = view.places(jobs), estimator.forecasts(session, jobs, now, view)
    rows = session.connection().execute(_DETAILS, {"numbers": [job.number for job in jobs]})
    details = {row.number: row for row in rows}
    return [
        _job_public(job, places.get(job.number), forecasts.get(job.number, JobForecast()), details[job.number])
        for job in jobs
    ]


def update_tag(job: Job) -> str:
    """Hash of what users can edit: the first half of a job's ETag."""
    text = json.dumps([job.labels, job.priority], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _job_public(job: Job, queue_position: int | None, forecast: JobForecast, details: sa.Row[Any]) -> JobPublic:
    """`details`: the job's row of `_DETAILS`."""
    is_validating = job.status == JobStatus.VALIDATING
    waits = {
        "dataset": details.dataset_status not in {None, DatasetStatus.READY},
        "weights": job.weights_progress is not None,
    }
    return JobPublic(
        **{name: getattr(job, name) for name in _SAME_IN_BOTH},
        losses={key: value for key, value in job.losses.items() if value is not None},
        attempt=job.claims,
        waiting_for=[what for what, is_waiting in waits.items() if is_validating and is_waiting],
        weights_progress=job.weights_progress if is_validating else None,
        last_event_seq=job.last_seq,
        queue_position=queue_position,
        starts_in=forecast.starts_in,
        eta=forecast.eta,
        resources=_resources(job.needs),
        lacking=list(forecast.lacking),
        disk_bytes=int(details.disk_bytes or 0),
        num_artifacts=details.num_artifacts,
        consent=details.consent,
        dataset_deleted=details.dataset_deleted_at is not None,
        updated_at=details.updated_at or job.created_at,
        error=_job_error(job),
        content_notice=content_notice(job),
    )


@lru_cache(1024)
def _resources(needs: str) -> JobResources:
    """Cached: most jobs need the same, and every job of a list has it."""
    return JobResources(**asdict(parse_needs(needs)))


def _job_error(job: Job) -> JobError | None:
    if job.error_code is None:
        return None
    code = FailureCode(job.error_code)
    return JobError(code=code, message=job.error_message or "", retryable=code.retryable)


_ENTRY: tuple[Any, ...] = (
    *(Job.number, Job.id, Job.name, Job.owner, Job.needs, Job.status, Job.priority, Job.progress, Job.eta_seconds),
)
"""Columns of an entry of the queue. A whole row has four JSON texts more."""


def queue_public(
    session: Session,
    estimator: Estimator,
    now: datetime,
    liveness: WorkerLiveness,
    visible_owner: str | None = None,
) -> QueuePublic:
    """The running and the queued jobs of `visible_owner` (None: everyone's), and the numbers of all."""
    running = sorted(session.exec(select(Job).where(IS_LEASED)).all(), key=lambda job: job.number or 0)
    query = sa.select(*_ENTRY).where(IS_QUEUED).order_by(*QUEUE_ORDER)
    visible = query if visible_owner is None else query.where(col(Job.owner) == visible_owner)
    queued = session.connection().execute(visible.limit(NUM_QUEUED_SHOWN)).all()
    view = estimator.places.view(session, now)
    places = view.places(queued)
    numbers = counts(session)["jobs"]
    shown = [job for job in running if visible_owner in {None, job.owner}]
    forecasts = estimator.forecasts(session, [*shown, *queued], now, view)
    workers = workers_public(session, now, liveness)
    return QueuePublic(
        running=[_queue_entry(job, None, forecasts) for job in shown],
        queued=[_queue_entry(job, places[job.number], forecasts) for job in queued],
        num_queued=numbers.get(JobStatus.QUEUED, 0),
        num_validating=numbers.get(JobStatus.VALIDATING, 0),
        num_workers=sum(worker.status in {"idle", "busy"} for worker in workers),
    )


def _queue_entry(job: Job | sa.Row[Any], position: int | None, forecasts: dict[int | None, JobForecast]) -> QueueEntry:
    forecast = forecasts.get(job.number, JobForecast())
    return QueueEntry(
        id=job.id,
        name=job.name,
        status=JobStatus(job.status),
        priority=job.priority,
        queue_position=position,
        progress=job.progress,
        eta_seconds=job.eta_seconds,
        starts_in=forecast.starts_in,
        eta=forecast.eta,
        lacking=list(forecast.lacking),
    )


def workers_public(
    session: Session,
    now: datetime,
    liveness: WorkerLiveness,
    visible_owner: str | None = None,
    only: str | None = None,
) -> list[WorkerPublic]:
    """Workers seen within the last day, newest first; with the ids of jobs that belong to `visible_owner`.

    `only`: id of a single worker, however long ago it was seen.
    """
    query = select(Worker).order_by(col(Worker.id).desc())
    if only is None:
        query = query.where(col(Worker.last_seen_at) > now - FORGET_WORKERS_AFTER)
    else:
        query = query.where(Worker.id == only)
    held = select(Job.worker_id, Job.id, Job.owner).where(IS_LEASED)
    jobs = {row[0]: (row[1], row[2]) for row in session.exec(held).all()}
    workers = session.exec(query).all()
    return [
        _worker_public(worker, jobs.get(worker.id), visible_owner, is_lost=liveness.is_lost(worker, now))
        for worker in workers
    ]


def _worker_public(
    worker: Worker, job: tuple[str, str] | None, visible_owner: str | None, *, is_lost: bool
) -> WorkerPublic:
    fields = worker.model_dump(exclude={"is_draining", "stopped_at", "schema_version", "heartbeat_seconds"})
    return WorkerPublic(
        **fields,
        is_outdated=worker.schema_version not in {None, SCHEMA_VERSION},
        status=_worker_status(worker, is_busy=job is not None, is_lost=is_lost),
        job_id=job[0] if job is not None and visible_owner in {None, job[1]} else None,
    )


def _worker_status(
    worker: Worker, *, is_busy: bool, is_lost: bool
) -> Literal["idle", "busy", "draining", "lost", "stopped"]:
    if worker.stopped_at is not None:
        return "stopped"
    if is_lost:
        return "lost"
    if worker.is_draining:
        return "draining"
    return "busy" if is_busy else "idle"
