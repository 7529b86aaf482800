"""Uploads in pieces (tus 1.0.0): what has arrived of each, how long it is kept, and turning one into a file to admit.

How much has arrived is the length of the file itself, so a server that is killed forgets nothing. A piece that comes
with a checksum counts only when the whole of it is here and right: until then the row says where it began, and whatever
lies beyond is cut off.
"""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

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
    """All uploads that are not yet datasets."""

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
        """Begin an upload of `length` bytes. Raises UploadTooLarge, StorageQuotaExceeded."""
        limit = self._settings.max_upload_bytes
        if length > limit:
            raise UploadTooLarge(f"the upload is larger than the {limit} bytes that this server takes; split it")
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
        """Where the bytes lie."""
        return self._storage.upload_file(upload_id)

    def get(self, owner: str | None, upload_id: str) -> Upload:
        """One upload of that owner (None: of anyone). NotFound; Gone when it has expired."""
        with read_session(self._engine) as session:
            upload = session.get(Upload, upload_id)
        if upload is None or (owner is not None and upload.owner != owner):
            raise NotFound(f"there is no upload {upload_id}")
        if upload.dataset_id is None and upload.expires_at <= self._clock():
            raise Gone(f"the upload {upload_id} was left alone for too long and is deleted; begin it anew")
        return upload

    def offset(self, upload: Upload) -> int:
        """Bytes that are here for good. For one caller at a time: it cuts off what no checksum vouches for."""
        if upload.dataset_id is not None:
            return upload.length
        path = self.path(upload.id)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise Gone(f"the file of the upload {upload.id} is gone; begin it anew") from None
        if upload.unverified_from is not None and upload.unverified_from < size:
            self.truncate(upload.id, upload.unverified_from)
            return upload.unverified_from
        return size

    def truncate(self, upload_id: str, size: int) -> None:
        """Forget what lies beyond `size` bytes."""
        with self.path(upload_id).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def begin_chunk(self, upload_id: str, unverified_from: int | None) -> None:
        """A piece is about to come; with a checksum, everything beyond `unverified_from` does not count yet."""
        self._update(upload_id, unverified_from=unverified_from)

    def end_chunk(self, upload_id: str) -> datetime:
        """A piece has come, or as much of it as did; the time until which the upload is kept now."""
        expires_at = self._expiry(self._clock())
        self._update(upload_id, unverified_from=None, expires_at=expires_at)
        return expires_at

    def require_complete(self, owner: str | None, upload_id: str) -> Upload:
        """An upload of which every byte is here. Conflict when some are missing."""
        upload = self.get(owner, upload_id)
        offset = self.offset(upload)
        if offset != upload.length:
            raise Conflict(f"the upload has {offset} of its {upload.length} bytes; send the rest first")
        return upload

    def make_dataset(
        self, dataset_service: DatasetService, visible_owner: str | None, name: str, upload_id: str
    ) -> tuple[Dataset, bool]:
        """Turn a whole upload into a dataset; and whether that is new. Asked again it gives the same one for a while.

        Raises Conflict while bytes are missing, and what `DatasetService.admit` raises.
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
        """Forget an upload and its bytes. NotFound."""
        self.get(owner, upload_id)
        self._forget([upload_id])

    def expire(self) -> int:
        """Forget the uploads that were left alone for too long; how many."""
        with read_session(self._engine) as session:
            query = select(Upload.id).where(col(Upload.expires_at) <= self._clock())
            expired = list(session.exec(query).all())
        self._forget(expired)
        if expired:
            logger.info("uploads expired", number=len(expired))
        return len(expired)

    def _forget(self, upload_ids: list[str]) -> None:
        for upload_id in upload_ids:
            self.path(upload_id).unlink(missing_ok=True)
        with write_session(self._engine) as session:
            session.execute(sa.delete(Upload).where(col(Upload.id).in_(upload_ids)))

    def _update(self, upload_id: str, **columns: object) -> None:
        with write_session(self._engine) as session:
            session.execute(sa.update(Upload).where(col(Upload.id) == upload_id).values(**columns))

    def _expiry(self, now: datetime) -> datetime:
        return now + timedelta(hours=self._settings.upload_expire_hours)
