"""Datasets that the server downloads: their rows, from the request until all files are there.

The row comes first: a dataset that is `ingesting` with the addresses in `fetch`. When everything is there, `fetch` is
cleared, which hands the files to the ingestion. Quota and disk are checked again whenever a download turns out larger
than what was reserved, so that an endless one ends.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.datasets import DatasetFetch, DatasetStatus
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.database.engine import advisory_lock, read_session, write_session
from server.database.tables import Dataset, new_id
from server.datasets.admission import Admissions, Source, find_same, is_ingestion_refused
from server.datasets.ingest import FetchedFile, unpacked_bytes
from server.datasets.service import checked_name
from server.errors import QuotaExceeded
from server.fetching.download import host_of
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations


class DatasetDeleted(Exception):
    """The dataset was deleted, which cancels its download."""


class Fetches:
    """Datasets of one database and one storage that are being downloaded."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        admissions: Admissions,
        reservations: Reservations,
        quotas: Quotas,
    ) -> None:
        self._engine, self._storage, self._settings = engine, storage, settings
        self._admissions, self._reservations, self._quotas = admissions, reservations, quotas

    def admit(self, owner: str, name: str, urls: Sequence[str], zip_names: str) -> tuple[Dataset, bool]:
        """Make a dataset of addresses, which are checked already; and whether it is new.

        Repeated calls return the same one while it is downloaded. Raises Refused, NoSpace, StorageQuotaExceeded, and
        QuotaExceeded for one too many at a time.
        """
        name = checked_name(name)
        source = Source(owner, _digest(["addresses", name, *urls]), zip_names)
        with write_session(self._engine) as session:
            advisory_lock(session, f"datasets of {owner}")
            same = find_same(session, source, name)
            if same is not None and not is_ingestion_refused(same):
                return same, False
            self._check_number(session, owner)
            dataset = same or self._admissions.new(new_id("ds"), source, name, 0)
            dataset.fetch = {"urls": list(urls), **DatasetFetch().model_dump()}
            self._admissions.have_ingested(session, dataset, 0)
            record(session, "dataset.fetched", dataset.id, hosts=sorted({host_of(url) for url in urls}))
            return dataset, True

    def _check_number(self, session: Session, owner: str) -> None:
        most = self._settings.max_unfinished_uploads
        query = sa.select(sa.func.count()).where(col(Dataset.owner) == owner, *_fetching())
        if session.execute(query).scalar_one() >= most:
            raise QuotaExceeded(
                f"the server is downloading {most} datasets for {owner}, and may have no more; wait for one, or delete "
                "one"
            )

    def waiting(self, but_owners: Collection[str], but: Collection[str]) -> list[Dataset]:
        """The oldest dataset of each owner that waits for its download, oldest first."""
        with read_session(self._engine) as session:
            oldest = (
                sa.select(sa.func.min(col(Dataset.id)))
                .where(*_fetching(), col(Dataset.owner).not_in(but_owners), col(Dataset.id).not_in(but))
                .group_by(col(Dataset.owner))
            )
            return list(session.exec(select(Dataset).where(col(Dataset.id).in_(oldest)).order_by(col(Dataset.id))))

    def is_wanted(self, dataset_id: str) -> bool:
        """Whether what was downloaded for a dataset is still of use."""
        with read_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id)
            return dataset is not None and dataset.deleted_at is None and dataset.status == DatasetStatus.INGESTING

    def report(self, dataset: Dataset, progress: DatasetFetch, needed: int) -> None:
        """Record the progress of a download, and reserve the bytes that it turns out to need.

        Raises DatasetDeleted, NoSpace, StorageQuotaExceeded.
        """
        needed = max(needed, progress.total_bytes or 0)
        fetch = {"urls": (dataset.fetch or {})["urls"], **progress.model_dump()}
        with write_session(self._engine) as session:
            reserved = self._reserve(session, dataset.id, needed)
            self._change(session, dataset.id, {"fetch": fetch, "stored_bytes": reserved, "reason": None})

    def postpone(self, dataset_id: str, reason: str) -> None:
        """Record why the download of a dataset waits. Raises DatasetDeleted."""
        with write_session(self._engine) as session:
            self._change(session, dataset_id, {"reason": reason})

    def complete(self, dataset: Dataset, folder: Path, files: Sequence[FetchedFile]) -> None:
        """Hand complete downloads to the ingestion. Raises DatasetDeleted, and the errors of `unpacked_bytes`."""
        limits, num_bytes = self._admissions.limits(), 0
        for file in files:
            num_bytes += unpacked_bytes(folder / file.path, limits.less(0, num_bytes), dataset.zip_names)
        hashes = [[file.name, file.sha256] for file in files]
        sha256 = str(files[0].sha256) if len(files) == 1 else _digest(hashes)
        size = sum(file.size or 0 for file in files)
        with write_session(self._engine) as session:
            advisory_lock(session, f"datasets of {dataset.owner}")
            reserved = self._reserve(session, dataset.id, num_bytes)
            columns: dict[str, object] = {
                "fetch": None,
                "reason": None,
                "size": size,
                "stored_bytes": max(reserved, num_bytes),
            }
            if find_same(session, Source(dataset.owner, sha256, dataset.zip_names), dataset.name) is None:
                columns["sha256"] = sha256  # otherwise it keeps that of its addresses, of which there is only one
            self._change(session, dataset.id, columns)

    def _reserve(self, session: Session, dataset_id: str, needed: int) -> int:
        """Bytes that are reserved for a dataset, at least as many as it needs."""
        row = session.get(Dataset, dataset_id)
        reserved = 0 if row is None else row.stored_bytes or 0
        if row is not None and needed > reserved:
            self._reservations.check(session, needed - reserved)
            self._quotas.check_bytes(session, row.owner, needed - reserved)
        return max(needed, reserved)

    def _change(self, session: Session, dataset_id: str, values: dict[str, object]) -> None:
        statement = sa.update(Dataset).where(col(Dataset.id) == dataset_id, *_fetching()).values(**values)
        if not session.connection().execute(statement).rowcount:
            raise DatasetDeleted


def _fetching() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        col(Dataset.status) == DatasetStatus.INGESTING,
        col(Dataset.deleted_at).is_(None),
        col(Dataset.fetch).is_not(None),
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
