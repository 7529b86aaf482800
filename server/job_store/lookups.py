"""Rows by their id, or the error that the caller is answered with."""

from sqlmodel import Session, select

from rvc_train.schemas.datasets import DatasetStatus
from server.database.tables import Dataset, Job
from server.errors import NotFound, Refused


def find_job(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """The row of a job. NotFound."""
    query = select(Job).where(Job.id == job_id)
    job = session.exec(query.with_for_update() if lock else query).first()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def usable_dataset(session: Session, dataset_id: str, visible_owner: str | None) -> Dataset:
    """The dataset of a request. Refused when it is unknown or unusable; `visible_owner` as in `Submissions.submit`."""
    dataset = session.get(Dataset, dataset_id)
    if dataset is None or dataset.deleted_at is not None or visible_owner not in {None, dataset.owner}:
        raise Refused(f"there is no dataset {dataset_id}; upload one first", "/dataset_id")
    if dataset.status == DatasetStatus.INVALID:
        raise Refused(f"the dataset {dataset_id} is not usable: {dataset.reason}", "/dataset_id")
    return dataset
