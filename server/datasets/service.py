"""Datasets: lists, deletion, reports. Only the job service changes the status of jobs."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.errors import InvalidDataset
from rvc_engine.names.voices import check_dataset_name
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from rvc_train.schemas.jobs import JobStatus
from server.auth.audit import record
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Job, Upload, UploadState
from server.errors import Conflict, NotFound, Refused
from server.job_store.transitions import RUNNABLE_STATUSES
from server.jobs.service import JobService
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

SETTLED = (DatasetStatus.READY, DatasetStatus.INVALID)
"""Statuses after validation."""


class DatasetService:
    """Datasets of one database and one storage."""

    def __init__(self, job_service: JobService, storage: Storage, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = job_service.engine
        self._jobs = job_service
        self._storage = storage
        self._clock = clock

    def get(self, dataset_id: str) -> Dataset:
        """One dataset. Raises NotFound."""
        with read_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id)
            if dataset is None or dataset.deleted_at is not None:
                raise NotFound(f"there is no dataset {dataset_id}")
            return dataset

    def list(self, *, owner: str | None = None, after: str | None, limit: int) -> tuple[Sequence[Dataset], bool]:
        """Datasets of an owner (None: all) older than `after`, newest first; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(Dataset).where(col(Dataset.deleted_at).is_(None))
            if owner is not None:
                query = query.where(Dataset.owner == owner)
            if after is not None:
                query = query.where(col(Dataset.id) < after)  # ids sort by time
            datasets = session.exec(query.order_by(col(Dataset.id).desc()).limit(limit + 1)).all()
            return datasets[:limit], len(datasets) > limit

    def report(self, dataset_id: str) -> DatasetReport:
        """The report on the recordings. Raises Conflict while they are being examined."""
        dataset = self.get(dataset_id)
        if dataset.report is None:
            raise Conflict("the dataset is being examined; try again in a moment")
        return DatasetReport.model_validate(dataset.report)

    def recording(self, dataset_id: str, number: int) -> Recording:
        """The recording of a number, in the order of the report, from 1. Raises NotFound, and Conflict before."""
        if not self.get(dataset_id).num_files:
            raise Conflict("the recordings are being unpacked; try again in a moment")
        try:
            recordings = list_recordings(self._storage.recordings(dataset_id))
        except InvalidDataset as error:
            raise NotFound(f"there is no dataset {dataset_id}") from error
        if number > len(recordings):
            raise NotFound(f"the dataset {dataset_id} has {len(recordings)} recordings; there is no number {number}")
        return recordings[number - 1]

    def delete(self, dataset_id: str) -> None:
        """Delete the recordings and their stage results. Raises Conflict while a job needs them.

        The ingestion of a dataset that is deleted ends by itself, and deletes what it wrote.
        """
        with write_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id, with_for_update=True)  # waits for a submission on it
            if dataset is None or dataset.deleted_at is not None:
                raise NotFound(f"there is no dataset {dataset_id}")
            using = select(Job.id).where(Job.dataset_id == dataset_id, col(Job.status).in_(RUNNABLE_STATUSES))
            if (job_id := session.exec(using).first()) is not None:
                raise Conflict(f"the dataset is in use by {job_id}; cancel that job first")
            is_source = (col(Upload.dataset_id) == dataset_id) & (col(Upload.state) == UploadState.ADMITTING)
            session.execute(sa.update(Upload).where(is_source).values(state=UploadState.DELETING, dataset_id=None))
            record(session, "dataset.deleted", dataset_id, name=dataset.name)
            dataset.deleted_at = self._clock()
            dataset.report = None
        self._storage.delete_dataset(dataset_id)

    def delete_leftovers(self) -> None:
        """Delete the files of datasets whose deletion was interrupted."""
        present = {
            path.name for kind in ("datasets", "consents", "fetched", "cache") for path in self._storage.entries(kind)
        }
        with read_session(self._engine) as session:
            deleted = session.exec(select(Dataset.id).where(col(Dataset.deleted_at).is_not(None))).all()
        for dataset_id in present.intersection(deleted):
            self._storage.delete_dataset(dataset_id)

    def oldest_by_owner(self, status: DatasetStatus, but: Collection[str] = ()) -> dict[str, str]:
        """Id of each owner's oldest dataset of a status, by owner; `but`: ids that are left out.

        Those that are being downloaded are left out too.
        """
        with read_session(self._engine) as session:
            query = select(Dataset.owner, sa.func.min(Dataset.id)).where(
                Dataset.status == status,
                col(Dataset.deleted_at).is_(None),
                col(Dataset.fetch).is_(None),
                col(Dataset.id).not_in(but),
            )
            return dict(session.exec(query.group_by(col(Dataset.owner))).all())

    def finish_validation(self, dataset_id: str, report: DatasetReport) -> None:
        """Store a report, and queue or fail the jobs waiting for it, in one transaction."""
        reason = None if report.usable else report.reason or "the recordings have no usable part"
        with write_session(self._engine) as session:
            statement = (
                sa.update(Dataset)
                .where(
                    col(Dataset.id) == dataset_id,
                    col(Dataset.status) == DatasetStatus.VALIDATING,
                    col(Dataset.deleted_at).is_(None),  # its report is discarded if it was deleted meanwhile
                )
                .values(
                    status=DatasetStatus.READY if reason is None else DatasetStatus.INVALID,
                    reason=reason,
                    report=report.model_dump(mode="json"),
                    num_usable=report.num_usable,
                    seconds=report.seconds,
                    validated_at=self._clock(),
                )
            )
            updated = session.connection().execute(statement)  # waits for submissions on it
            if updated.rowcount:
                self._jobs.finish_dataset_validation(session, dataset_id, reason)

    def settle_waiting_jobs(self) -> int:
        """Repair: queue or fail jobs that wait for a validated or deleted dataset; returns the number of such datasets.

        The locks leave none; it is for databases from before them.
        """
        waiting = (
            select(Dataset.id)
            .join(Job, col(Job.dataset_id) == col(Dataset.id))
            .where(Job.status == JobStatus.VALIDATING)
            .where(col(Job.weights_progress).is_(None) | (col(Dataset.status) != DatasetStatus.READY))
            .where(sa.or_(col(Dataset.status).in_(SETTLED), col(Dataset.deleted_at).is_not(None)))
        )
        with read_session(self._engine) as session:
            found = set(session.exec(waiting).all())
        for dataset_id in found:
            with write_session(self._engine) as session:
                dataset = session.get_one(Dataset, dataset_id, with_for_update=True)
                reason = "the dataset was deleted" if dataset.deleted_at is not None else dataset.reason
                self._jobs.finish_dataset_validation(session, dataset_id, reason)
            logger.warning("jobs waited for a validated or deleted dataset", dataset_id=dataset_id)
        return len(found)


def checked_name(name: str, parameter: str | None = None) -> str:
    """A dataset's name, checked. Raises Refused. `parameter`: where it stands, if not in the body."""
    try:
        return check_dataset_name(name)
    except ValueError as error:
        raise Refused(f"invalid dataset name: {error}", "" if parameter else "/name", parameter=parameter) from error
