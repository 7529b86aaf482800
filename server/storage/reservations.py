"""Disk space reserved before it is used, so that two uploads cannot both have it.

A reservation is a row: the bytes of an upload that are not received yet, and the unpacked bytes of a dataset that is
being ingested. It is compared with the free space in the transaction that inserts it. While a dataset is unpacked, its
bytes count twice, as reserved and as used: others may be refused for that time, and never too few.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.datasets import DatasetStatus
from server.database.engine import advisory_lock
from server.database.tables import Dataset, Upload, UploadState
from server.errors import NoSpace, SpaceReserved
from server.settings import ServerSettings
from server.storage.local import Storage

ACTIVE_HOURS = 1.0
"""Time without a byte after which an upload's reservation lapses. It is checked again when the upload goes on."""


class Reservations:
    """Reservations of one disk."""

    def __init__(self, storage: Storage, settings: ServerSettings, clock: Callable[[], datetime]) -> None:
        self._storage, self._settings, self._clock = storage, settings, clock

    def check_reserve(self) -> None:
        """Raise NoSpace when the disk has less free space than its reserve."""
        if self._storage.free_bytes() < self._settings.disk_reserve_bytes:
            raise NoSpace("the server's disk has no space for this upload; free some space there and try again")

    def check(self, session: Session, num_bytes: int) -> None:
        """Raise NoSpace or SpaceReserved without room for `num_bytes` more.

        For the transaction that inserts the reservation.
        """
        advisory_lock(session, "disk reservations")  # or two transactions could both take the last room
        free = self._storage.free_bytes() - self._settings.disk_reserve_bytes
        if num_bytes > free:
            raise NoSpace("the server's disk has no space for this upload; free some space there and try again")
        if num_bytes > free - self._reserved(session):
            raise SpaceReserved(
                "the free space of the server's disk is reserved for uploads under way; try again when they are "
                "complete, or free some space there"
            )

    def is_active(self, upload: Upload) -> bool:
        """Whether the upload's reservation counts."""
        return upload.expires_at > self._lapse()

    def _lapse(self) -> datetime:
        hours = max(0.0, self._settings.upload_expire_hours - ACTIVE_HOURS)
        return self._clock() + timedelta(hours=hours)

    def _reserved(self, session: Session) -> int:
        sums = (
            sa.select(sa.func.sum(col(Upload.length) - col(Upload.received))).where(
                col(Upload.state) == UploadState.RECEIVING,
                sa.or_(col(Upload.expires_at) > self._lapse(), ~col(Upload.is_resumable)),
            ),
            sa.select(sa.func.sum(col(Dataset.stored_bytes))).where(
                col(Dataset.status) == DatasetStatus.INGESTING, col(Dataset.deleted_at).is_(None)
            ),
        )
        return sum(int(session.execute(query).scalar() or 0) for query in sums)
