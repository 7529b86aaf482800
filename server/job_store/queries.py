"""Queries of jobs, and of their datasets, events, metrics and artifacts. Nothing here writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.events import MetricSeries
from rvc_train.schemas.jobs import JobStatus
from server.database.derived_tables import JobLabel
from server.database.engine import read_session
from server.database.result_tables import Artifact
from server.database.tables import Dataset, Event, Job, Metric
from server.errors import NotFound, Refused
from server.scheduling.queue import IS_QUEUED, QUEUE_ORDER

_MAX_PRIORITY = 100
_NUMBER_BITS = 48
_BY_ID = select(Job).where(col(Job.id) == sa.bindparam("job_id"))
_LOCKED_BY_ID = _BY_ID.with_for_update()
"""Made once: making a statement takes a third of the time of a look-up."""


@dataclass(frozen=True)
class EventsPage:
    """Some events of a job, with its status in the same transaction."""

    events: Sequence[Event]
    status: JobStatus
    last_seq: int
    job_id: str = ""
    name: str = ""
    """Name of the job's voice."""


class JobQueries:
    """Queries of jobs' events, metrics and artifacts, on one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def events(self, job_id: str, after: int, limit: int, types: Sequence[str] = ()) -> EventsPage:
        """Events after number `after`, oldest first; only of these types, if any are given. NotFound."""
        with read_session(self._engine) as session:
            number, status, last_seq, name = _job(session, job_id)
            events: Sequence[Event] = []
            if last_seq > after:  # the cheap query first: followers poll several times a second
                query = select(Event).where(Event.job_number == number, Event.seq > after)
                if types:
                    query = query.where(col(Event.type).in_(types))
                events = session.exec(query.order_by(col(Event.seq)).limit(limit)).all()
            return EventsPage(events, status, last_seq, job_id, name)

    def rows(self, job_ids: Sequence[str], limit: int) -> Sequence[Job]:
        """The jobs with these ids, or the newest `limit` ones when there are no ids. NotFound."""
        with read_session(self._engine) as session:
            if job_ids:
                return [find_job(session, job_id) for job_id in job_ids]
            return session.exec(select(Job).order_by(col(Job.number).desc()).limit(limit)).all()

    def status(self, job_id: str) -> JobStatus:
        """The status of a job. NotFound."""
        with read_session(self._engine) as session:
            return _job(session, job_id)[1]

    def metrics(self, job_id: str, keys: Sequence[str], since_step: int, max_points: int) -> list[MetricSeries]:
        """Series of values after `since_step`, each thinned to about `max_points`; the last point is kept. NotFound."""
        with read_session(self._engine) as session:
            number = _job(session, job_id)[0]
            query = (
                sa.select(col(Metric.key), sa.func.count())
                .where(col(Metric.job_number) == number, col(Metric.step) > since_step)
                .group_by(col(Metric.key))
                .order_by(col(Metric.key))
            )
            if keys:
                query = query.where(col(Metric.key).in_(keys))
            counts = session.connection().execute(query).all()
            return [_series(session, number, key, since_step, count, max_points) for key, count in counts]

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """All files of a job. NotFound."""
        with read_session(self._engine) as session:
            number = _job(session, job_id)[0]
            return session.exec(select(Artifact).where(Artifact.job_number == number).order_by(Artifact.name)).all()

    def artifact(self, job_id: str, name: str) -> Artifact:
        """One file of a job. NotFound."""
        for artifact in self.artifacts(job_id):
            if artifact.name == name:
                return artifact
        raise NotFound(f"the job {job_id} has no file {name!r}")


def find_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """The row of a job; with `lock`, locked until the transaction ends. NotFound."""
    job = session.exec(_LOCKED_BY_ID if lock else _BY_ID, params={"job_id": job_id}).first()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def newest_numbers(
    conditions: Sequence[sa.ColumnElement[bool]], statuses: Sequence[JobStatus], labels: Mapping[str, str], limit: int
) -> sa.Select[tuple[int | None]]:
    """Subquery of the `limit` highest numbers of jobs that meet all conditions, of any of the statuses (none: of all).

    Each status, or the first label, is read from its own index, newest first, and no further than to the limit.
    """
    number = col(Job.number)
    query = sa.select(number).where(*conditions)
    for place, (key, value) in enumerate(labels.items()):
        label = aliased(JobLabel)
        query = query.join(label, col(label.job_number) == number).where(
            col(label.key) == key, col(label.value) == value
        )
        number = col(label.job_number) if place == 0 else number
    newest = [
        query.where(*where).order_by(number.desc()).limit(limit).subquery()
        for where in ([[col(Job.status) == status] for status in dict.fromkeys(statuses)] or [[]])
    ]
    found = sa.union_all(*(sa.select(each.c.number) for each in newest)).subquery()
    return sa.select(found.c.number).order_by(found.c.number.desc()).limit(limit)


def has_labels(labels: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """Conditions for jobs with all of these labels."""
    return [
        col(Job.number).in_(
            sa.select(col(JobLabel.job_number)).where(col(JobLabel.key) == key, col(JobLabel.value) == value)
        )
        for key, value in labels.items()
    ]


def queue_key(job: Job) -> int:
    """Sort key of a queued job: increases in the order in which jobs will run."""
    return (_MAX_PRIORITY - job.priority) << _NUMBER_BITS | (job.number or 0)


def queued_after(session: Session, conditions: Sequence[sa.ColumnElement[bool]], key: int, limit: int) -> Sequence[Job]:
    """Queued jobs that meet all conditions, in the order in which they will run, after a `queue_key`."""
    priority, number = _MAX_PRIORITY - (key >> _NUMBER_BITS), key & ((1 << _NUMBER_BITS) - 1)
    is_later = sa.or_(col(Job.priority) < priority, sa.and_(col(Job.priority) == priority, col(Job.number) > number))
    query = select(Job).where(IS_QUEUED, is_later, *conditions).order_by(*QUEUE_ORDER)
    return session.exec(query.limit(limit)).all()


def usable_dataset(session: Session, dataset_id: str, visible_owner: str | None, *, lock: bool = False) -> Dataset:
    """The dataset of a submission. Refused when it is unknown, invalid, or not of `visible_owner` (None: anyone's).

    `lock`: it is neither validated nor deleted before the transaction ends.
    """
    dataset = session.get(Dataset, dataset_id, with_for_update={"read": True} if lock else None)
    if dataset is None or dataset.deleted_at is not None or visible_owner not in {None, dataset.owner}:
        raise Refused(f"there is no dataset {dataset_id}; upload one first", "/dataset_id")
    if dataset.status == DatasetStatus.INVALID:
        raise Refused(f"the dataset {dataset_id} is not usable: {dataset.reason}", "/dataset_id")
    return dataset


def consent_missing(dataset_id: str) -> str:
    """Sentence on a dataset without the consent of its speaker, on a server that asks for it."""
    return (
        f"the dataset {dataset_id} has no consent of its speaker, and this server trains no voice without: record who "
        f"agreed to what and when with PUT /v1/datasets/{dataset_id}/consent, or with rvc-train dataset consent"
    )


def _job(session: Session, job_id: str) -> tuple[int, JobStatus, int, str]:
    row = session.exec(select(Job.number, Job.status, Job.last_seq, Job.name).where(Job.id == job_id)).first()
    if row is None or row[0] is None:
        raise NotFound(f"there is no job {job_id}")
    return row[0], JobStatus(row[1]), row[2], row[3]


def _series(session: Session, number: int, key: str, since_step: int, count: int, max_points: int) -> MetricSeries:
    stride = -(-count // max_points)
    row = sa.func.row_number().over(order_by=col(Metric.step)).label("row")
    numbered = (
        sa.select(col(Metric.step), col(Metric.value), row)
        .where(col(Metric.job_number) == number, col(Metric.key) == key, col(Metric.step) > since_step)
        .subquery()
    )
    kept = sa.or_(numbered.c.row % stride == 0, numbered.c.row == count)
    query = sa.select(numbered.c.step, numbered.c.value).where(kept).order_by(numbered.c.step)
    points = session.connection().execute(query).all()
    return MetricSeries(
        key=key, steps=[step for step, _ in points], values=[value for _, value in points], num_points=count
    )
