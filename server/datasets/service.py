"""Datasets: ingestion of uploads, lists, deletion, reports. Only the job service changes the status of jobs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from rvc_engine.config import check_voice_name
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from rvc_train.schemas.jobs import JobStatus
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Job, Upload, new_id
from server.datasets.ingest import UnpackLimits, ingest
from server.errors import Conflict, NoSpace, NotFound, Refused, StorageQuotaExceeded
from server.job_store.transitions import RUNNABLE_STATUSES
from server.jobs.service import JobService
from server.settings import ServerSettings
from server.storage.local import Storage, is_disk_full, link_or_copy
from server.storage.sizes import share_of

logger = structlog.get_logger(__name__)

SETTLED = (DatasetStatus.READY, DatasetStatus.INVALID)
"""Statuses after validation."""


@contextmanager
def full_disk_as_no_space() -> Iterator[None]:
    """Raise NoSpace instead of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace("the server's disk is full; free some space there and try again") from error
        raise


class DatasetService:
    """Datasets of one database and one storage."""

    def __init__(
        self,
        job_service: JobService,
        storage: Storage,
        settings: ServerSettings,
        clock: Callable[[], datetime] = utc_now,
        quotas: Quotas | None = None,
    ) -> None:
        self._quotas = quotas
        self._engine = job_service.engine
        self._jobs = job_service
        self._storage = storage
        self._settings = settings
        self._clock = clock

    def check_room(self, size: int) -> None:
        """Raise NoSpace if an upload of `size` bytes would use the disk's reserve."""
        if self._storage.free_bytes() - size < self._settings.disk_reserve_bytes:
            raise NoSpace("the server's disk has no space for this upload; free some space there and try again")

    def ingest(
        self, owner: str, name: str, upload: Path, sha256: str, size: int, *, upload_id: str | None = None
    ) -> tuple[Dataset, bool]:
        """Make a dataset of an upload; and whether it is new. The same bytes under the same name are stored once.

        `upload_id`: a resumable upload, which stops counting against the owner's quota when the dataset starts to.
        Raises Refused (and its subclasses) or NoSpace.
        """
        name = checked_name(name)
        if (stored := self._reuse(owner, name, sha256, upload_id)) is not None:
            return stored
        dataset = Dataset(
            id=new_id("ds"), owner=owner, name=name, sha256=sha256, size=size, num_files=0, created_at=self._clock()
        )
        with full_disk_as_no_space(), self._storage.incoming_folder() as folder:
            recordings = folder / "recordings"
            ingested = ingest(upload, name, recordings, self._limits())
            dataset.num_files, dataset.notes = ingested.num_files, ingested.notes
            dataset.stored_bytes = share_of(recordings)
            self._storage.commit_folder(recordings, self._storage.dataset_folder(dataset.id))
        return self._add(dataset, upload_id)

    def ingest_stored(self, owner: str, name: str, sha256: str) -> tuple[Dataset, bool]:
        """Make a dataset of bytes that the owner has in another one; and whether it is new. Raises NotFound."""
        if (stored := self._reuse(owner, checked_name(name), sha256)) is None:
            raise NotFound("no dataset with these bytes is stored; upload them")
        return stored

    def _reuse(self, owner: str, name: str, sha256: str, upload_id: str | None = None) -> tuple[Dataset, bool] | None:
        """The dataset of these bytes and this name, else a copy of one with the same bytes; and whether it is new."""
        if (same := self._find(owner, sha256, name)) is not None:
            return same, False
        if (twin := self._find(owner, sha256)) is None:
            return None
        columns = twin.model_dump(exclude={"id", "name", "created_at", "deleted_at"})
        dataset = Dataset(id=new_id("ds"), name=name, created_at=self._clock(), **columns)
        try:
            with full_disk_as_no_space(), self._storage.incoming_folder() as folder:
                for path in self._storage.dataset_folder(twin.id).iterdir():
                    link_or_copy(path, folder / path.name)
                self.get(twin.id)  # not deleted yet, so no file was missing above
                self._storage.commit_folder(folder, self._storage.dataset_folder(dataset.id))
        except (FileNotFoundError, NotFound):  # the twin was deleted meanwhile
            return None
        return self._add(dataset, upload_id)

    def _add(self, dataset: Dataset, upload_id: str | None) -> tuple[Dataset, bool]:
        """Insert the row of a dataset whose files are in place, or delete these; and whether the dataset is new."""
        dataset_id, key = dataset.id, (dataset.owner, dataset.sha256, dataset.name)
        try:
            with write_session(self._engine) as session:
                if upload_id is not None:
                    statement = sa.update(Upload).where(col(Upload.id) == upload_id)
                    session.execute(statement.values(dataset_id=dataset_id))
                if self._quotas is not None:
                    stored = dataset.size if dataset.stored_bytes is None else dataset.stored_bytes
                    self._quotas.check_bytes(session, dataset.owner, stored)
                session.add(dataset)
                record(session, "dataset.admitted", dataset_id, name=dataset.name, size=dataset.size)
        except StorageQuotaExceeded:
            self._storage.delete_dataset(dataset_id)
            raise
        except sa.exc.IntegrityError:  # the same bytes were ingested under this name at the same time
            self._storage.delete_dataset(dataset_id)
            if (same := self._find(*key)) is None:
                raise
            return same, False
        return dataset, True

    def _limits(self) -> UnpackLimits:
        settings = self._settings
        return UnpackLimits(
            max_files=settings.max_files,
            max_file_bytes=settings.max_file_bytes,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_ratio=settings.max_ratio,
            free_bytes=self._storage.free_bytes() - settings.disk_reserve_bytes,
        )

    def _find(self, owner: str, sha256: str, name: str | None = None) -> Dataset | None:
        """The owner's oldest dataset of these bytes, under this name or (None) any."""
        query = select(Dataset).where(
            Dataset.owner == owner, Dataset.sha256 == sha256, col(Dataset.deleted_at).is_(None)
        )
        if name is not None:
            query = query.where(Dataset.name == name)
        with read_session(self._engine) as session:
            return session.exec(query.order_by(col(Dataset.id)).limit(1)).first()

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

    def delete(self, dataset_id: str) -> None:
        """Delete the recordings and their stage results. Raises Conflict while a job needs them."""
        with write_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id, with_for_update=True)  # waits for a submission on it
            if dataset is None or dataset.deleted_at is not None:
                raise NotFound(f"there is no dataset {dataset_id}")
            using = select(Job.id).where(Job.dataset_id == dataset_id, col(Job.status).in_(RUNNABLE_STATUSES))
            if (job_id := session.exec(using).first()) is not None:
                raise Conflict(f"the dataset is in use by {job_id}; cancel that job first")
            record(session, "dataset.deleted", dataset_id, name=dataset.name)
            dataset.deleted_at = self._clock()
            dataset.report = None
        self._storage.delete_dataset(dataset_id)

    def first_unvalidated(self) -> dict[str, str]:
        """Id of each owner's oldest dataset without a report, by owner."""
        with read_session(self._engine) as session:
            query = select(Dataset.owner, sa.func.min(Dataset.id)).where(
                Dataset.status == DatasetStatus.VALIDATING, col(Dataset.deleted_at).is_(None)
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


def checked_name(name: str) -> str:
    """A dataset's name, checked like a voice's. Raises Refused."""
    try:
        return check_voice_name(name)
    except ValueError as error:
        raise Refused(f"invalid dataset name: {error}", "/name") from error
