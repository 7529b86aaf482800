"""Datasets: ingesting an upload, listing, deleting, reports. Statuses of jobs belong to the job service."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import col, select

from rvc_engine.config import check_voice_name
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
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
from server.storage.local import Storage, is_disk_full
from server.storage.sizes import share_of


@contextmanager
def full_disk_as_no_space() -> Iterator[None]:
    """Raise NoSpace for a full disk."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace("the server's disk is full; free some space there and try again") from error
        raise


class DatasetService:
    """All datasets, on one database and one storage."""

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
        """Raise NoSpace when an upload of `size` bytes would eat into the reserve."""
        if self._storage.free_bytes() - size < self._settings.disk_reserve_bytes:
            raise NoSpace("the server's disk has no room for this upload; free some space there and try again")

    def ingest(
        self, owner: str, name: str, upload: Path, sha256: str, size: int, *, upload_id: str | None = None
    ) -> tuple[Dataset, bool]:
        """Make a dataset of an upload; and whether it is new. The same bytes under the same name are kept once.

        `upload_id`: of an upload in pieces, which stops counting against the owner's quota as the dataset begins to.
        Raises Refused (and its kinds) or NoSpace with a sentence for the person.
        """
        name = checked_name(name)
        existing = self._find_same(owner, name, sha256)
        if existing is not None:
            return existing, False
        if (twin := self._find_bytes(owner, sha256)) is not None and (
            made := self._copy(twin, name, upload_id)
        ) is not None:
            return made
        dataset_id = new_id("ds")
        with full_disk_as_no_space(), self._storage.incoming_folder() as folder:
            admitted = ingest(upload, name, folder / "recordings", self._limits())
            stored_bytes = share_of(folder / "recordings")
            self._storage.commit_folder(folder / "recordings", self._storage.dataset_folder(dataset_id))
        try:
            return self._add(
                Dataset(
                    id=dataset_id,
                    owner=owner,
                    name=name,
                    sha256=sha256,
                    size=size,
                    stored_bytes=stored_bytes,
                    num_files=admitted.num_files,
                    notes=admitted.notes,
                    created_at=self._clock(),
                ),
                upload_id,
            ), True
        except StorageQuotaExceeded:
            self._storage.delete_dataset(dataset_id)
            raise
        except sa.exc.IntegrityError:  # the same upload came in at the same time
            self._storage.delete_dataset(dataset_id)
            existing = self._find_same(owner, name, sha256)
            if existing is None:
                raise
            return existing, False

    def ingest_existing(self, owner: str, name: str, sha256: str) -> tuple[Dataset, bool]:
        """A dataset of bytes that are here already; and whether it is new. NotFound when they are not here."""
        name = checked_name(name)
        existing = self._find_same(owner, name, sha256)
        if existing is not None:
            return existing, False
        twin = self._find_bytes(owner, sha256)
        made = None if twin is None else self._copy(twin, name)
        if made is None:
            raise NotFound("these bytes are not here; upload them")
        return made

    def _copy(self, twin: Dataset, name: str, upload_id: str | None = None) -> tuple[Dataset, bool] | None:
        """A dataset with the same recordings under another name, and whether it is new. Its files are links.

        None when the twin was deleted meanwhile, or the disk cannot link.
        """
        dataset_id = new_id("ds")
        kept = (
            "size",
            "stored_bytes",
            "num_files",
            "num_usable",
            "seconds",
            "notes",
            "report",
            "reason",
            "status",
            "validated_at",
        )
        try:
            with full_disk_as_no_space(), self._storage.incoming_folder() as folder:
                shutil.copytree(self._storage.dataset_folder(twin.id), folder / "recordings", copy_function=os.link)
                self._storage.commit_folder(folder / "recordings", self._storage.dataset_folder(dataset_id))
        except (shutil.Error, OSError):
            return None
        dataset = Dataset(
            id=dataset_id,
            owner=twin.owner,
            name=name,
            sha256=twin.sha256,
            created_at=self._clock(),
            **{column: getattr(twin, column) for column in kept},
        )
        try:
            self._add(dataset, upload_id)
        except StorageQuotaExceeded:
            self._storage.delete_dataset(dataset_id)
            raise
        except sa.exc.IntegrityError:  # the same request came in at the same time
            self._storage.delete_dataset(dataset_id)
            existing = self._find_same(twin.owner, name, twin.sha256)
            return None if existing is None else (existing, False)
        return dataset, True

    def _add(self, dataset: Dataset, upload_id: str | None) -> Dataset:
        with write_session(self._engine) as session:
            if upload_id is not None:
                became = sa.update(Upload).where(col(Upload.id) == upload_id).values(dataset_id=dataset.id)
                session.execute(became)
            if self._quotas is not None:
                stored = dataset.size if dataset.stored_bytes is None else dataset.stored_bytes
                self._quotas.check_bytes(session, dataset.owner, stored)
            session.add(dataset)
            record(session, "dataset.admitted", dataset.id, name=dataset.name, size=dataset.size)
            return dataset

    def _limits(self) -> UnpackLimits:
        settings = self._settings
        return UnpackLimits(
            max_files=settings.max_files,
            max_file_bytes=settings.max_file_bytes,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_ratio=settings.max_ratio,
            free_bytes=self._storage.free_bytes() - settings.disk_reserve_bytes,
        )

    def _find_same(self, owner: str, name: str, sha256: str) -> Dataset | None:
        with read_session(self._engine) as session:
            query = select(Dataset).where(
                Dataset.owner == owner,
                Dataset.name == name,
                Dataset.sha256 == sha256,
                col(Dataset.deleted_at).is_(None),
            )
            return session.exec(query).first()

    def _find_bytes(self, owner: str, sha256: str) -> Dataset | None:
        with read_session(self._engine) as session:
            query = select(Dataset).where(
                Dataset.owner == owner, Dataset.sha256 == sha256, col(Dataset.deleted_at).is_(None)
            )
            return session.exec(query.order_by(col(Dataset.id)).limit(1)).first()

    def get(self, dataset_id: str) -> Dataset:
        """One dataset. NotFound."""
        with read_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id)
            if dataset is None or dataset.deleted_at is not None:
                raise NotFound(f"there is no dataset {dataset_id}")
            return dataset

    def list(self, *, owner: str | None = None, after: str | None, limit: int) -> tuple[Sequence[Dataset], bool]:
        """Datasets of an owner (None: of all), newest first, beginning behind `after`; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(Dataset).where(col(Dataset.deleted_at).is_(None))
            if owner is not None:
                query = query.where(Dataset.owner == owner)
            if after is not None:
                query = query.where(col(Dataset.id) < after)  # ids sort by time
            datasets = session.exec(query.order_by(col(Dataset.id).desc()).limit(limit + 1)).all()
            return datasets[:limit], len(datasets) > limit

    def report(self, dataset_id: str) -> DatasetReport:
        """What was found in the recordings. Conflict while nobody has looked yet."""
        dataset = self.get(dataset_id)
        if dataset.report is None:
            raise Conflict("the dataset is being examined; ask again in a moment")
        return DatasetReport.model_validate(dataset.report)

    def delete(self, dataset_id: str) -> None:
        """Delete the recordings and what was made from them. Conflict while a job needs them."""
        with write_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id)
            if dataset is None or dataset.deleted_at is not None:
                raise NotFound(f"there is no dataset {dataset_id}")
            using = select(Job.id).where(Job.dataset_id == dataset_id, col(Job.status).in_(RUNNABLE_STATUSES))
            if (job_id := session.exec(using).first()) is not None:
                raise Conflict(f"the dataset is in use by {job_id}; cancel that job first")
            record(session, "dataset.deleted", dataset_id, name=dataset.name)
            dataset.deleted_at = self._clock()
            dataset.report = None
        self._storage.delete_dataset(dataset_id)

    def next_unvalidated(self) -> str | None:
        """The oldest dataset that waits for its report."""
        with read_session(self._engine) as session:
            query = select(Dataset.id).where(
                Dataset.status == DatasetStatus.VALIDATING, col(Dataset.deleted_at).is_(None)
            )
            return session.exec(query.order_by(col(Dataset.id)).limit(1)).first()

    def finish_validation(self, dataset_id: str, report: DatasetReport) -> None:
        """Store a report, and queue or fail the jobs that waited for it, in one transaction."""
        reason = None if report.usable else report.reason or "nothing usable was found in the recordings"
        with write_session(self._engine) as session:
            statement = (
                sa.update(Dataset)
                .where(
                    col(Dataset.id) == dataset_id,
                    col(Dataset.status) == DatasetStatus.VALIDATING,
                    col(Dataset.deleted_at).is_(None),  # deleted while it was examined: nothing of it is kept
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
            session.execute(statement)
            self._jobs.finish_dataset_validation(session, dataset_id, reason)


def checked_name(name: str) -> str:
    """A dataset's name: as a voice's. Raises Refused."""
    try:
        return check_voice_name(name)
    except ValueError as error:
        raise Refused(f"the dataset's name cannot be used: {error}", "/name") from error
