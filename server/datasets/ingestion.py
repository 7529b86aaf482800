"""Ingestion in the background: from the bytes of an admitted upload to a folder of recordings.

The row comes first, then the files, then the row's change to `validating`, then the deletion of the upload's file. What
a killed server left is thus found by its row: the ingestion starts again, in an empty folder.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from rvc_engine.errors import InvalidDataset
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from server.blobs.copies import link_or_copy
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Upload, UploadState, change_upload
from server.datasets.admission import Admissions, Source, find_twin, full_disk_as_no_space
from server.datasets.ingest import IngestResult, Omission, derive, ingest, ingest_fetched
from server.datasets.service import DatasetService
from server.datasets.turns import OwnerTurns
from server.errors import NoSpace, NotFound, Refused, StorageAway, UploadRefused
from server.jobs.service import JobService
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

NUM_INGESTING = 2
NUM_THREADS = 1 + NUM_INGESTING
RETRY_SECONDS = 30.0
"""Wait before an ingestion that the disk interrupted is repeated."""


class Stopped(Exception):
    """The server stops; the ingestion starts again at the next start."""


class Ingestion(OwnerTurns):
    """Ingestion of the datasets that are `ingesting`."""

    def __init__(
        self,
        dataset_service: DatasetService,
        admissions: Admissions,
        job_service: JobService,
        storage: Storage,
        validator: OwnerTurns,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`validator` is woken for each dataset that is ingested. `leads`: as for `OwnerTurns`."""
        super().__init__("dataset-ingestion", NUM_INGESTING, self._oldest_by_owner, self._ingest, leads)
        self._datasets, self._admissions, self._jobs = dataset_service, admissions, job_service
        self._engine, self._storage, self._validator = job_service.engine, storage, validator
        self._retry_at: dict[str, float] = {}
        """Monotonic time of the next try of a dataset, by id."""

    def _oldest_by_owner(self) -> dict[str, str]:
        now = time.monotonic()
        self._retry_at = {dataset_id: at for dataset_id, at in self._retry_at.items() if at > now}
        return self._datasets.oldest_by_owner(DatasetStatus.INGESTING, but=self._retry_at)

    def _ingest(self, dataset_id: str) -> None:
        home = self._storage.dataset_home(dataset_id)
        try:
            dataset = self._datasets.get(dataset_id)
            if dataset.status != DatasetStatus.INGESTING:
                return
            shutil.rmtree(home, ignore_errors=True)  # of an interrupted ingestion
            self._store(dataset, home / "incoming")
            self._validator.wake()
        except (NotFound, Stopped):
            pass
        except Refused as error:
            self.refuse(dataset_id, str(error))
        except (NoSpace, OSError) as error:
            self._postpone(dataset_id, error)
        finally:
            if not self._is_ingested(dataset_id):  # the row decides, because a commit's answer may have been lost
                shutil.rmtree(home, ignore_errors=True)

    def _store(self, dataset: Dataset, folder: Path) -> None:
        """Write the recordings to `folder`, move it to its place, and change the rows."""
        with read_session(self._engine) as session:
            upload_id = session.exec(_source(dataset.id)).first()
            twin = find_twin(session, Source(dataset.owner, dataset.sha256, dataset.zip_names))
        if self._storage.fetched_folder(dataset.id).is_dir():
            twin = None  # its recordings have names of their own
        with full_disk_as_no_space():
            if twin is None or not self._copy(twin, folder):
                twin = None
                result = self._made(upload_id, dataset, folder)
            else:
                result = IngestResult(twin.num_files, twin.stored_bytes or twin.size, twin.notes)
            self._storage.commit_folder(folder, self._storage.dataset_folder(dataset.id))
        if twin is None:
            self._storage.keep(self._storage.dataset_folder(dataset.id))
        else:
            self._storage.keep_copy(self._storage.dataset_folder(twin.id), self._storage.dataset_folder(dataset.id))
        with write_session(self._engine) as session:
            if upload_id is not None:
                change_upload(session, upload_id, (UploadState.ADMITTING,), state=UploadState.ADMITTED)
            self._finish(session, dataset.id, result, twin)
        if upload_id is not None:
            self._storage.delete_upload(upload_id)
        shutil.rmtree(self._storage.fetched_folder(dataset.id), ignore_errors=True)
        logger.info("dataset ingested", dataset_id=dataset.id, num_files=result.num_files)

    def _made(self, upload_id: str | None, dataset: Dataset, folder: Path) -> IngestResult:
        """Write the recordings: of an upload, of downloads, or of the dataset that it is derived from.

        Raises UploadRefused.
        """
        deleted = UploadRefused("the recordings were deleted before they could be copied; upload them again")
        if dataset.derived_from is not None:
            source = self._storage.recordings(dataset.derived_from)
            try:
                made = derive(source, Omission.from_json(dataset.without or ()), folder, self._check_stopping)
                origin = self._datasets.get(dataset.derived_from)  # not deleted yet, so no file was missing above
            except (FileNotFoundError, InvalidDataset, NotFound) as error:
                raise deleted from error
            return replace(made, notes=origin.notes)
        limits, fetched = self._admissions.limits(), self._storage.fetched_folder(dataset.id)
        if fetched.is_dir():
            return ingest_fetched(fetched, folder, limits, self._check_stopping, dataset.zip_names)
        upload = None if upload_id is None else self._storage.upload_file(upload_id)
        if upload is None or not upload.exists():
            raise deleted
        return ingest(upload, dataset.name, folder, limits, self._check_stopping, dataset.zip_names)

    def _copy(self, twin: Dataset, folder: Path) -> bool:
        """Link the recordings of another dataset; False if it is deleted meanwhile."""
        try:
            folder.mkdir(parents=True)
            for path in self._storage.recordings(twin.id).iterdir():
                self._check_stopping()
                link_or_copy(path, folder / path.name)
            self._datasets.get(twin.id)  # not deleted yet, so no file was missing above
        except (FileNotFoundError, NotFound):
            shutil.rmtree(folder, ignore_errors=True)
            return False
        return True

    def _finish(self, session: Session, dataset_id: str, result: IngestResult, twin: Dataset | None) -> None:
        """Have the recordings validated, unless those of `twin` are already."""
        values: dict[str, object] = {"status": DatasetStatus.VALIDATING, "reason": None}
        if twin is not None:
            columns = {"status", "reason", "report", "num_usable", "seconds", "validated_at"}
            values = twin.model_dump(include=columns)
        values |= {"num_files": result.num_files, "notes": result.notes, "stored_bytes": result.stored_bytes}
        is_changed = self._change(session, dataset_id, values)
        if twin is not None and is_changed and twin.status != DatasetStatus.VALIDATING:
            self._jobs.finish_dataset_validation(session, dataset_id, twin.reason)

    def refuse(self, dataset_id: str, reason: str) -> None:
        """Make a dataset invalid. Its upload is whole, and can be tried again when the server's limits have changed.

        What was downloaded for it is deleted.
        """
        logger.info("dataset not ingested", dataset_id=dataset_id, reason=reason)
        report = DatasetReport(usable=False, reason=reason).model_dump(mode="json")
        values = {"status": DatasetStatus.INVALID, "reason": reason, "report": report, "stored_bytes": 0}
        values["fetch"] = None
        with write_session(self._engine) as session:
            if (upload_id := session.exec(_source(dataset_id)).first()) is not None:
                refused = {"state": UploadState.REFUSED, "dataset_id": None}
                change_upload(session, upload_id, (UploadState.ADMITTING,), **refused)
            if self._change(session, dataset_id, values):
                self._jobs.finish_dataset_validation(session, dataset_id, reason)
        shutil.rmtree(self._storage.fetched_folder(dataset_id), ignore_errors=True)

    def _postpone(self, dataset_id: str, error: Exception) -> None:
        """Try again later; the dataset has the reason."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        waits = f"the recordings wait for the server's disk: {reason}"
        if isinstance(error, StorageAway):
            waits = f"the recordings wait: {reason}"
        logger.warning("ingestion of a dataset is repeated later", dataset_id=dataset_id, reason=reason)
        self._retry_at[dataset_id] = time.monotonic() + RETRY_SECONDS
        with write_session(self._engine) as session:  # no change if it was deleted meanwhile
            self._change(session, dataset_id, {"reason": waits})

    def _change(self, session: Session, dataset_id: str, values: dict[str, object]) -> bool:
        """Change a dataset that is being ingested; False if it is not any more."""
        is_ingesting = (col(Dataset.status) == DatasetStatus.INGESTING) & col(Dataset.deleted_at).is_(None)
        statement = sa.update(Dataset).where(col(Dataset.id) == dataset_id, is_ingesting)
        return bool(session.connection().execute(statement.values(**values)).rowcount)

    def _is_ingested(self, dataset_id: str) -> bool:
        try:
            return self._datasets.get(dataset_id).num_files > 0
        except NotFound:
            return False

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopped


def _source(dataset_id: str) -> SelectOfScalar[str]:
    """Query for the id of the upload that a dataset is ingested from."""
    return select(Upload.id).where(Upload.dataset_id == dataset_id, Upload.state == UploadState.ADMITTING)
