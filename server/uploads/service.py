"""Resumable uploads (tus 1.0.0): their offset, their expiry, and turning a complete one into a dataset.

The offset is the length of the file itself, so a server that is killed loses nothing. A chunk with a checksum counts
only once it is complete and verified: until then the row has the offset of its first byte, and the bytes from there on
are cut off.
"""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col

from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Dataset, Upload, new_id
from server.datasets.service import DatasetService
from server.errors import Conflict, Gone, NotFound, UploadTooLarge
from server.settings import ServerSettings
from server.storage.local import Storage

logger = structlog.get_logger(__name__)


class UploadService:
    """Uploads of one database and one storage."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        clock: Callable[[], datetime] = utc_now,
        quotas: Quotas | None = None,
    ) -> None:
        self._quotas = quotas
        self._engine = engine
        self._storage = storage
        self._settings = settings
        self._clock = clock

    def create(self, owner: str, length: int, tus_metadata: str) -> Upload:
        """Create an upload of `length` bytes. Raises UploadTooLarge, StorageQuotaExceeded."""
        limit = self._settings.max_upload_bytes
        if length > limit:
            raise UploadTooLarge(f"the upload exceeds this server's limit of {limit} bytes; split it")
        now = self._clock()
        upload = Upload(
            id=new_id("upl"),
            owner=owner,
            length=length,
            tus_metadata=tus_metadata,
            created_at=now,
            expires_at=self._expiry(now),
        )
        path = self.path(upload.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_session(self._engine) as session:
            if self._quotas is not None:
                self._quotas.check_bytes(session, owner, length)
            path.touch()
            session.add(upload)
        return upload

    def path(self, upload_id: str) -> Path:
        """File of the bytes received so far."""
        return self._storage.upload_file(upload_id)

    def get(self, owner: str | None, upload_id: str) -> Upload:
        """One upload of the owner (None: of any). Raises NotFound, or Gone if it has expired."""
        with read_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
        if upload is None or (owner is not None and upload.owner != owner):
            raise NotFound(f"there is no upload {upload_id}")
        if upload.dataset_id is None and upload.expires_at <= self._clock():
            raise Gone(f"the upload {upload_id} has expired and is deleted; start a new one")
        return upload

    def offset(self, upload: Upload) -> int:
        """Number of bytes received. Cuts off an unverified chunk, so the caller must hold the upload's lock."""
        if upload.dataset_id is not None:
            return upload.length
        path = self.path(upload.id)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise Gone(f"the file of the upload {upload.id} is missing; start a new one") from None
        if upload.unverified_from is not None and upload.unverified_from < size:
            self.truncate(upload.id, upload.unverified_from)
            return upload.unverified_from
        return size

    def truncate(self, upload_id: str, size: int) -> None:
        """Delete the bytes after the first `size`."""
        with self.path(upload_id).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def begin_chunk(self, upload_id: str, unverified_from: int | None) -> None:
        """Mark the start of a chunk; one with a checksum does not count yet, from offset `unverified_from` on."""
        self._update(upload_id, unverified_from=unverified_from)

    def end_chunk(self, upload_id: str) -> datetime:
        """Mark the end of a chunk, complete or interrupted; returns the upload's new expiry."""
        expires_at = self._expiry(self._clock())
        self._update(upload_id, unverified_from=None, expires_at=expires_at)
        return expires_at

    def extend(self, upload_id: str) -> None:
        """Move the expiry of an upload that is being received."""
        self._update(upload_id, expires_at=self._expiry(self._clock()))

    def require_complete(self, owner: str | None, upload_id: str) -> Upload:
        """A completely received upload. Raises Conflict if bytes are missing."""
        upload = self.get(owner, upload_id)
        offset = self.offset(upload)
        if offset != upload.length:
            raise Conflict(f"the upload has {offset} of its {upload.length} bytes; send the rest first")
        return upload

    def make_dataset(
        self, dataset_service: DatasetService, visible_owner: str | None, name: str, upload_id: str
    ) -> tuple[Dataset, bool]:
        """Make a dataset of a complete upload; and whether it is new. Repeated calls return the same one.

        Raises Conflict while bytes are missing, and the errors of `DatasetService.ingest`.
        """
        upload = self.require_complete(visible_owner, upload_id)
        if upload.dataset_id is not None:
            return dataset_service.get(upload.dataset_id), False
        path = self.path(upload_id)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        dataset, is_new = dataset_service.ingest(upload.owner, name, path, sha256, upload.length, upload_id=upload_id)
        self._update(upload_id, dataset_id=dataset.id)
        path.unlink(missing_ok=True)
        return dataset, is_new

    def delete(self, owner: str | None, upload_id: str) -> None:
        """Delete an upload and its bytes. Raises NotFound."""
        self.get(owner, upload_id)
        self._delete(col(Upload.id) == upload_id)

    def expire(self) -> int:
        """Delete expired uploads; returns their number."""
        num_expired = self._delete(col(Upload.expires_at) <= self._clock())
        if num_expired:
            logger.info("uploads expired", number=num_expired)
        return num_expired

    def _delete(self, which: sa.ColumnElement[bool]) -> int:
        """Delete the rows, then the files of those that were deleted; returns their number."""
        with write_session(self._engine) as session:
            deleted = session.execute(sa.delete(Upload).where(which).returning(col(Upload.id))).scalars().all()
        for upload_id in deleted:
            self.path(upload_id).unlink(missing_ok=True)
        return len(deleted)

    def _update(self, upload_id: str, **columns: object) -> None:
        with write_session(self._engine) as session:
            session.execute(sa.update(Upload).where(col(Upload.id) == upload_id).values(**columns))

    def _expiry(self, now: datetime) -> datetime:
        return now + timedelta(hours=self._settings.upload_expire_hours)
