"""From rows to wire shapes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.errors import FailureCode
from server.database import read_session
from server.schemas import (
    CONTENT_NOTICE,
    ArtifactPublic,
    DatasetPublic,
    EventPublic,
    JobError,
    JobPublic,
    JobStatus,
    QueueEntry,
    QueuePublic,
    WorkerPublic,
)
from server.states import HELD_STATUSES
from server.tables import Artifact, Dataset, Event, Job, Worker

NUM_QUEUED_SHOWN = 100
FORGET_WORKERS_AFTER = timedelta(days=1)


def content_notice(job: Job) -> str | None:
    """What is to be said of a voice that RVC and Applio load but do not convert with correctly."""
    encoder = job.config.get("content", "contentvec")
    return None if encoder == "contentvec" else CONTENT_NOTICE.format(encoder=encoder)


def dataset_public(dataset: Dataset) -> DatasetPublic:
    """A dataset's row as the world sees it."""
    return DatasetPublic.model_validate(dataset, from_attributes=True)


def event_public(event: Event) -> EventPublic:
    """An event's row as the world sees it."""
    return EventPublic.model_validate(event, from_attributes=True)


def artifact_public(job: Job, artifact: Artifact) -> ArtifactPublic:
    """An artifact's row as the world sees it."""
    notice = content_notice(job) if artifact.kind in {"voice", "best"} else None
    return ArtifactPublic(
        id=artifact.id,
        kind=artifact.kind,
        name=artifact.name,
        size=artifact.size,
        sha256=artifact.sha256,
        created_at=artifact.created_at,
        url=f"/v1/jobs/{job.id}/artifacts/{quote(artifact.name, safe='')}",
        content_notice=notice,
    )


def jobs_public(engine: sa.Engine, jobs: Sequence[Job]) -> list[JobPublic]:
    """Jobs' rows as the world sees them, with their places in the queue."""
    numbers = [job.number for job in jobs]
    with read_session(engine) as session:
        positions = _queue_positions(session, numbers)
        query = (
            sa.select(col(Artifact.job_number), sa.func.count())
            .where(col(Artifact.job_number).in_(numbers))
            .group_by(col(Artifact.job_number))
        )
        counts: dict[int | None, int] = {row[0]: row[1] for row in session.connection().execute(query)}
    return [_job_public(job, positions.get(job.number), counts.get(job.number, 0)) for job in jobs]


def _queue_positions(session: Session, numbers: Sequence[int | None]) -> dict[int | None, int]:
    place = sa.func.row_number().over(order_by=(col(Job.priority).desc(), col(Job.number))).label("place")
    queue = sa.select(col(Job.number), place).where(col(Job.status) == JobStatus.QUEUED).subquery()
    query = sa.select(queue.c.number, queue.c.place).where(queue.c.number.in_(numbers))
    return {row[0]: row[1] for row in session.connection().execute(query)}


def _job_public(job: Job, queue_position: int | None, num_artifacts: int) -> JobPublic:
    fields = job.model_dump(exclude={"losses"})
    return JobPublic(
        **{key: value for key, value in fields.items() if key in JobPublic.model_fields},
        losses={key: value for key, value in job.losses.items() if value is not None},
        attempt=job.claims,
        last_event_seq=job.last_seq,
        queue_position=queue_position,
        num_artifacts=num_artifacts,
        error=_job_error(job),
        content_notice=content_notice(job),
    )


def _job_error(job: Job) -> JobError | None:
    if job.error_code is None:
        return None
    code = FailureCode(job.error_code)
    return JobError(code=code, message=job.error_message or "", retryable=code.retryable)


def queue_public(engine: sa.Engine, now: datetime, lease_seconds: float, sees: str | None = None) -> QueuePublic:
    """What runs and what waits; of other owners' jobs than `sees` (None: everyone's) only the number."""
    with read_session(engine) as session:
        running = session.exec(select(Job).where(col(Job.status).in_(HELD_STATUSES)).order_by(col(Job.number))).all()
        order = (col(Job.priority).desc(), col(Job.number))
        waiting = select(Job).where(Job.status == JobStatus.QUEUED).order_by(*order).limit(NUM_QUEUED_SHOWN)
        queued = session.exec(waiting).all()
        count = sa.select(col(Job.status), sa.func.count()).group_by(col(Job.status))
        counts = {row[0]: row[1] for row in session.connection().execute(count)}
    workers = workers_public(engine, now, lease_seconds)
    return QueuePublic(
        running=[_queue_entry(job, None) for job in running if sees in {None, job.owner}],
        queued=[_queue_entry(job, place) for place, job in enumerate(queued, start=1) if sees in {None, job.owner}],
        num_queued=counts.get(JobStatus.QUEUED, 0),
        num_validating=counts.get(JobStatus.VALIDATING, 0),
        num_workers=sum(worker.status in {"idle", "busy"} for worker in workers),
    )


def _queue_entry(job: Job, position: int | None) -> QueueEntry:
    return QueueEntry(
        id=job.id,
        name=job.name,
        status=JobStatus(job.status),
        priority=job.priority,
        queue_position=position,
        progress=job.progress,
        eta_seconds=job.eta_seconds,
    )


def workers_public(
    engine: sa.Engine, now: datetime, lease_seconds: float, sees: str | None = None
) -> list[WorkerPublic]:
    """Workers that spoke within the last day, newest first; which jobs they have only where those are of `sees`."""
    with read_session(engine) as session:
        query = select(Worker).where(col(Worker.last_seen_at) > now - FORGET_WORKERS_AFTER)
        workers = session.exec(query.order_by(col(Worker.id).desc())).all()
        held = select(Job.worker_id, Job.id, Job.owner).where(col(Job.status).in_(HELD_STATUSES))
        jobs = {row[0]: (row[1], row[2]) for row in session.exec(held).all()}
    return [_worker_public(worker, jobs.get(worker.id), now, lease_seconds, sees) for worker in workers]


def _worker_public(
    worker: Worker, job: tuple[str, str] | None, now: datetime, lease_seconds: float, sees: str | None
) -> WorkerPublic:
    return WorkerPublic(
        id=worker.id,
        name=worker.name,
        host=worker.host,
        pid=worker.pid,
        device=worker.device,
        status=_worker_status(worker, job is not None, now, lease_seconds),
        job_id=job[0] if job is not None and sees in {None, job[1]} else None,
        registered_at=worker.registered_at,
        last_seen_at=worker.last_seen_at,
    )


def _worker_status(
    worker: Worker, is_busy: bool, now: datetime, lease_seconds: float
) -> Literal["idle", "busy", "draining", "lost", "stopped"]:
    if worker.stopped_at is not None:
        return "stopped"
    if now - worker.last_seen_at > timedelta(seconds=lease_seconds):
        return "lost"
    if worker.is_draining:
        return "draining"
    return "busy" if is_busy else "idle"
