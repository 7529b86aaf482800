"""Uploads: resumable ones (tus 1.0.0) and the bodies of single requests; turning a complete one into a dataset.

The offset is the length of the file itself, so a server that is killed loses nothing. A chunk with a checksum counts
only once it is complete and verified: until then the row has the offset of its first byte, and the bytes from there on
are cut off. The row comes before the file, and goes after it, so that a crash leaves no file without a row.
"""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from rvc_engine.environment.files import sync_file
from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Upload, UploadState, change_upload, new_id
from server.datasets.admission import Admissions
from server.datasets.service import DatasetService
from server.errors import (
    Conflict,
    Gone,
    NoSpace,
    NotFound,
    QuotaExceeded,
    SpaceReserved,
    StorageQuotaExceeded,
    UploadTooLarge,
)
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations

logger = structlog.get_logger(__name__)

SINGLE_REQUEST_HOURS = 0.25
"""Age without a new byte at which the body of a single request is deleted, if its server was killed."""
U = UploadState
_OPEN = frozenset({U.RECEIVING, U.COMPLETE, U.REFUSED})
"""States in which it has its bytes for itself."""


class UploadService:
    """Uploads of one database and one storage."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        reservations: Reservations,
        quotas: Quotas,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine, self._storage, self._settings = engine, storage, settings
        self._reservations, self._quotas, self._clock = reservations, quotas, clock
        self._digests: dict[str, tuple[int, hashlib._Hash]] = {}
        """Number and SHA-256 of the bytes received of each incomplete upload, where this process received all."""

    def create(self, owner: str, length: int, tus_metadata: str, *, is_resumable: bool = True) -> Upload:
        """Create an upload of `length` bytes, with room for them.

        Raises UploadTooLarge, NoSpace, StorageQuotaExceeded, and QuotaExceeded for one too many that is resumable.
        The body of a single request (not `is_resumable`) may have another length; see `finish`.
        """
        limit = self._settings.max_upload_bytes
        if length > limit:
            raise UploadTooLarge(f"the upload exceeds this server's limit of {limit} bytes; split it")
        upload = Upload(
            id=new_id("upl"),
            owner=owner,
            length=length,
            is_resumable=is_resumable,
            tus_metadata=tus_metadata,
            created_at=self._clock(),
            expires_at=self._expiry(is_resumable),
        )
        self.path(upload.id).parent.mkdir(parents=True, exist_ok=True)
        with write_session(self._engine) as session:
            self._reservations.check(session, length)  # also keeps two transactions from both taking the last place
            self._quotas.check_bytes(session, owner, length)
            if is_resumable:
                self._check_unfinished(session, owner)
            session.add(upload)
        return upload

    def _check_unfinished(self, session: Session, owner: str) -> None:
        most = self._settings.max_unfinished_uploads
        is_unfinished = (col(Upload.state).in_(_OPEN)) & (col(Upload.expires_at) > self._clock())
        unfinished = sa.select(sa.func.count()).where(
            col(Upload.owner) == owner, col(Upload.is_resumable), is_unfinished
        )
        if session.execute(unfinished).scalar_one() >= most:
            raise QuotaExceeded(
                f"{owner} has {most} unfinished uploads, and may have no more; complete one and make a dataset of it, "
                "or delete one"
            )

    def path(self, upload_id: str) -> Path:
        """File of the bytes received so far."""
        return self._storage.upload_file(upload_id)

    def get(self, owner: str | None, upload_id: str) -> Upload:
        """One upload of the owner (None: of any). Raises NotFound, or Gone if it has expired."""
        with read_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
        if upload is None or upload.state == U.DELETING or owner not in {None, upload.owner}:
            raise NotFound(f"there is no upload {upload_id}")
        if upload.dataset_id is None and upload.expires_at <= self._clock():
            raise Gone(f"the upload {upload_id} has expired and is deleted; start a new one")
        return upload

    def offset(self, upload: Upload) -> int:
        """Number of bytes received, without those of an unverified chunk. Changes nothing."""
        if upload.dataset_id is not None:
            return upload.length
        size = self._size(upload)
        return size if upload.unverified_from is None else min(size, upload.unverified_from)

    def cut_off_unverified(self, upload: Upload) -> int:
        """Cut off an unverified chunk; returns the offset. The caller must hold the upload's lock."""
        offset = self.offset(upload)
        if upload.dataset_id is None and offset < self._size(upload):
            self.truncate(upload.id, offset)
        return offset

    def _size(self, upload: Upload) -> int:
        try:
            return self.path(upload.id).stat().st_size
        except FileNotFoundError:
            if upload.received == 0:  # the first chunk makes the file
                return 0
            raise Gone(f"the file of the upload {upload.id} is missing; start a new one") from None

    def truncate(self, upload_id: str, size: int) -> None:
        """Delete the bytes after the first `size`."""
        with self.path(upload_id).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def begin_chunk(self, upload_id: str, offset: int, unverified_from: int | None) -> None:
        """Mark the start of a chunk; one with a checksum does not count yet, from offset `unverified_from` on.

        Raises NoSpace when the reservation has lapsed and the rest has no room now, Conflict when the upload has become
        a dataset.
        """
        with write_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
            if upload is not None and not self._reservations.is_active(upload):
                self._reservations.check(session, upload.length - offset)
            columns = {"unverified_from": unverified_from, "received": offset, "expires_at": self._expiry()}
            if not change_upload(session, upload_id, _OPEN, **columns):
                raise Conflict(f"the upload {upload_id} is complete; get its offset")

    def digest_so_far(self, upload_id: str, offset: int) -> "hashlib._Hash | None":
        """SHA-256 of the bytes before `offset`, to go on with; None if another process received some of them."""
        num_bytes, digest = self._digests.pop(upload_id, (0, hashlib.sha256()))
        return digest if num_bytes == offset else None

    def end_chunk(self, upload_id: str, digest: "hashlib._Hash | None" = None) -> datetime:
        """Mark the end of a chunk, complete or interrupted; returns the upload's new expiry.

        `digest`: SHA-256 of all bytes so far, so that a complete upload need not be read again.
        """
        expires_at = self._expiry()
        with write_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
            if upload is not None:
                size = self._size(upload)
                change_upload(session, upload_id, _OPEN, unverified_from=None, received=size, expires_at=expires_at)
                if size == upload.length:
                    sha256 = None if digest is None else digest.hexdigest()
                    change_upload(session, upload_id, (U.RECEIVING,), state=U.COMPLETE, sha256=sha256)
                elif digest is not None:
                    self._digests[upload_id] = size, digest
        return expires_at

    def watch(self, upload_id: str, size: int) -> None:
        """Keep an upload that has `size` bytes so far: it does not expire, and its file may still grow.

        Raises NoSpace when the disk has become full, StorageQuotaExceeded for a single request of unknown length.
        """
        self._reservations.check_reserve()
        with write_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
            if upload is not None:
                columns = self._grown(session, upload, size) | {"expires_at": self._expiry(upload.is_resumable)}
                change_upload(session, upload_id, _OPEN, **columns)

    def finish(self, upload_id: str, size: int, sha256: str) -> Upload:
        """Mark the body of a single request as complete. Raises StorageQuotaExceeded, NoSpace, NotFound."""
        with write_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
            if upload is not None:
                columns = self._grown(session, upload, size) | {"length": max(1, size), "sha256": sha256}
                change_upload(session, upload_id, (U.RECEIVING,), state=U.COMPLETE, **columns)
        return self.get(None, upload_id)

    def _grown(self, session: Session, upload: Upload, size: int) -> dict[str, object]:
        """Columns of an upload that has `size` bytes, more than were reserved if its length was not known."""
        more = size - upload.length
        if more > 0:
            self._reservations.check(session, more)
            self._quotas.check_bytes(session, upload.owner, more)
        return {"received": size, "length": max(size, upload.length)}

    def require_complete(self, owner: str | None, upload_id: str) -> Upload:
        """A completely received upload. Raises Conflict if bytes are missing."""
        upload = self.get(owner, upload_id)
        if upload.state != U.RECEIVING:
            return upload
        offset = self._size(upload) if upload.unverified_from is None else upload.unverified_from
        if offset != upload.length:
            raise Conflict(f"the upload has {offset} of its {upload.length} bytes; send the rest first")
        sync_file(self.path(upload_id))  # the server was killed before it could mark the end of the last chunk
        self.end_chunk(upload_id)
        return self.get(owner, upload_id)

    def make_dataset(
        self,
        dataset_service: DatasetService,
        admissions: Admissions,
        visible_owner: str | None,
        name: str,
        upload_id: str,
        zip_names: str,
    ) -> tuple[Dataset, bool]:
        """Make a dataset of a complete upload; and whether it is new. Repeated calls return the same one.

        Raises Conflict while bytes are missing, and the errors of `Admissions.admit`. An upload for whose recordings
        the disk has no space is deleted, because it would keep the disk full until it expires.
        """
        upload = self.require_complete(visible_owner, upload_id)
        if upload.dataset_id is None and (sha256 := upload.sha256 or self._sha256(upload_id)) is not None:
            try:
                return admissions.admit(name, upload, sha256, zip_names)
            except (SpaceReserved, StorageQuotaExceeded):
                raise
            except NoSpace as error:
                self.discard(upload_id)
                raise NoSpace(f"{error}; the upload is deleted, so send it again then") from error
        dataset_id = upload.dataset_id or self.get(visible_owner, upload_id).dataset_id
        if dataset_id is None:
            raise Gone(f"the file of the upload {upload_id} is missing; start a new one")
        return dataset_service.get(dataset_id), False

    def _sha256(self, upload_id: str) -> str | None:
        """Hash of the file; None if there is none, because a request at the same time was faster."""
        try:
            with self.path(upload_id).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def delete(self, owner: str | None, upload_id: str) -> None:
        """Delete an upload and its bytes. Raises NotFound, and Conflict while a dataset is made of it."""
        upload = self.get(owner, upload_id)
        if not self._mark_deleted(col(Upload.id) == upload_id):
            raise Conflict(f"the upload {upload_id} is becoming the dataset {upload.dataset_id}; delete that one")
        self.delete_marked()

    def discard(self, upload_id: str) -> None:
        """Delete an upload, unless it has become a dataset."""
        self._mark_deleted((col(Upload.id) == upload_id) & col(Upload.dataset_id).is_(None))
        self.delete_marked()

    def expire(self) -> int:
        """Delete expired uploads, and what a killed server has left of others; returns the number of the expired."""
        num_expired = self._mark_deleted(col(Upload.expires_at) <= self._clock())
        if num_expired:
            logger.info("uploads expired", number=num_expired)
        self.delete_marked()
        self._delete_admitted_files()
        return num_expired

    def _mark_deleted(self, which: sa.ColumnElement[bool]) -> int:
        """Mark uploads for `delete_marked`, except those from which a dataset is being made; returns their number."""
        statement = sa.update(Upload).where(which, col(Upload.state).not_in((U.ADMITTING, U.DELETING)))
        with write_session(self._engine) as session:
            return session.connection().execute(statement.values(state=U.DELETING, dataset_id=None)).rowcount

    def delete_marked(self) -> None:
        """Delete the files, then the rows, of uploads that are marked as deleted; what fails, at the next call."""
        is_marked = col(Upload.state) == U.DELETING
        with read_session(self._engine) as session:
            marked = session.exec(select(Upload.id).where(is_marked)).all()
        for upload_id in marked:
            self._digests.pop(upload_id, None)
        deleted = [upload_id for upload_id in marked if self._storage.delete_upload(upload_id)]
        if deleted:
            with write_session(self._engine) as session:
                session.execute(sa.delete(Upload).where(is_marked, col(Upload.id).in_(deleted)))

    def _delete_admitted_files(self) -> None:
        files = {path.name for path in self._storage.entries("uploads")}
        with read_session(self._engine) as session:
            admitted = session.exec(select(Upload.id).where(Upload.state == U.ADMITTED)).all()
        for upload_id in files & set(admitted):
            self._storage.delete_upload(upload_id)

    def _expiry(self, is_resumable: bool = True) -> datetime:
        hours = self._settings.upload_expire_hours if is_resumable else SINGLE_REQUEST_HOURS
        return self._clock() + timedelta(hours=hours)
