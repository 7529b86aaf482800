"""Consents of speakers to the use of their recordings, with the documents that show them.

A dataset has the present one, its audit entries those before, and each job the one that it was submitted under. A
document is a file in the dataset's folder of consents, taken from an upload; its bytes count with the dataset's.
"""

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.card.provenance import Consent, ConsentDocument
from rvc_train.schemas.datasets import ConsentCreate
from server.auth.audit import record
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Job, Upload, UploadState, change_upload
from server.errors import Conflict, Gone, NotFound, UploadTooLarge
from server.storage.local import Storage

MAX_DOCUMENT_BYTES = 10 * 10**6


class Consents:
    """Consents for the datasets of one database and one storage."""

    def __init__(self, engine: sa.Engine, storage: Storage) -> None:
        self._engine, self._storage = engine, storage

    def check_document(self, upload: Upload) -> None:
        """Raise UploadTooLarge when a complete upload is too large for a document."""
        if upload.length > MAX_DOCUMENT_BYTES:
            raise UploadTooLarge(
                f"the document of a consent may have at most {MAX_DOCUMENT_BYTES // 10**6} MB, and this one has "
                f"{upload.length / 1e6:.1f} MB; send a smaller copy",
                "/upload_id",
            )

    def put(self, dataset_id: str, wanted: ConsentCreate, upload: Upload | None) -> Dataset:
        """Set the consent of a dataset, in place of the one before; repeated calls change nothing more.

        `upload`: complete, with the document; it is used up. Raises NotFound, UploadTooLarge, Conflict for an upload
        that was used for something else.
        """
        if upload is not None:
            self.check_document(upload)
            self._keep(dataset_id, upload)
        with write_session(self._engine) as session:
            dataset = _locked(session, dataset_id)
            document = None if upload is None else self._document(session, dataset, wanted, upload)
            consent = Consent(
                speaker=wanted.speaker.strip(), statement=wanted.statement.strip(), date=wanted.date, document=document
            ).model_dump(mode="json")
            if consent != dataset.consent:
                record(session, "dataset.consent_given", dataset_id, consent=consent, before=dataset.consent)
                dataset.consent = consent
                dataset.consent_bytes = 0 if document is None else document.size_bytes
        self._storage.delete_consents(dataset_id, but=None if document is None else document.sha256)
        if upload is not None:
            self._storage.delete_upload(upload.id)
        return self.of(dataset_id)

    def _keep(self, dataset_id: str, upload: Upload) -> None:
        """Have the document in the store, before any row is locked."""
        path = self._storage.upload_file(upload.id)
        if path.is_file():
            sha256 = upload.sha256 or _sha256(path)
            self._storage.keep(path, self._storage.consent_folder(dataset_id) / sha256, sha256)

    def _document(self, session: Session, dataset: Dataset, wanted: ConsentCreate, upload: Upload) -> ConsentDocument:
        """Take the document from its upload; from the present consent when the upload was used for it before."""
        path = self._storage.upload_file(upload.id)
        present = None if dataset.consent is None else Consent.model_validate(dataset.consent).document
        usable = (UploadState.COMPLETE, UploadState.REFUSED)
        sha256 = upload.sha256 or _sha256(path)
        columns: dict[str, Any] = {"state": UploadState.ADMITTED, "dataset_id": dataset.id, "sha256": sha256}
        if not change_upload(session, upload.id, usable, **columns):
            if upload.dataset_id == dataset.id and present is not None and present.sha256 == upload.sha256:
                return present.model_copy(update={"name": wanted.document_name})
            raise Conflict(f"the upload {upload.id} was used already; send the document again")
        if not path.is_file():
            raise Gone(f"the file of the upload {upload.id} is missing; send the document again")
        self._storage.keep_consent(dataset.id, path, sha256)
        return ConsentDocument(name=wanted.document_name, size_bytes=path.stat().st_size, sha256=sha256)

    def remove(self, dataset_id: str) -> None:
        """Delete the consent of a dataset and its document. Raises NotFound; Conflict when a job used it."""
        with write_session(self._engine) as session:
            dataset = _locked(session, dataset_id)
            if dataset.consent is None:
                raise NotFound(f"the dataset {dataset_id} has no consent")
            if (job_id := session.exec(select(Job.id).where(Job.dataset_id == dataset_id)).first()) is not None:
                raise Conflict(
                    f"the job {job_id} was submitted under this consent, which is kept as long as the job is; delete "
                    "the job first, or set another consent"
                )
            record(session, "dataset.consent_removed", dataset_id, before=dataset.consent)
            dataset.consent, dataset.consent_bytes = None, 0
        self._storage.delete_consents(dataset_id)

    def of(self, dataset_id: str) -> Dataset:
        """The dataset with its consent, if any. Raises NotFound."""
        with read_session(self._engine) as session:
            return _present(session.get(Dataset, dataset_id), dataset_id)

    def document(self, dataset_id: str) -> tuple[ConsentDocument, Path]:
        """The document of a dataset's consent, and its file. Raises NotFound, Gone."""
        dataset = self.of(dataset_id)
        document = None if dataset.consent is None else Consent.model_validate(dataset.consent).document
        if document is None:
            raise NotFound(f"the dataset {dataset_id} has no document of a consent")
        path = self._storage.fetch(self._storage.consent_folder(dataset_id) / document.sha256)
        if not path.is_file():
            raise Gone(f"the document of the consent to {dataset_id} is no longer stored")
        return document, path


def inherit_consent(session: Session, storage: Storage, origin_id: str, dataset: Dataset) -> None:
    """Give a new dataset the consent of the one that it is derived from, in the caller's transaction."""
    origin = session.exec(select(Dataset).where(col(Dataset.id) == origin_id)).one()
    dataset.consent, dataset.consent_bytes = origin.consent, origin.consent_bytes
    if origin.consent is not None and (document := Consent.model_validate(origin.consent).document) is not None:
        source = storage.fetch(storage.consent_folder(origin_id) / document.sha256)
        storage.keep_consent(dataset.id, source, document.sha256)


def _locked(session: Session, dataset_id: str) -> Dataset:
    return _present(session.get(Dataset, dataset_id, with_for_update=True), dataset_id)


def _present(dataset: Dataset | None, dataset_id: str) -> Dataset:
    if dataset is None or dataset.deleted_at is not None:
        raise NotFound(f"there is no dataset {dataset_id}")
    return dataset


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
