"""The tables of datasets, consents, base weights, and the uploads they are made from; changes of uploads' states."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, Session, col

from rvc_engine.names.code_pages import AUTO
from rvc_train.schemas.datasets import DatasetStatus
from server.database.base import Table, UtcDateTime, in_sql, nullable_json, owner_column

_NOT_DELETED: dict[str, Any] = dict.fromkeys(("sqlite_where", "postgresql_where"), sa.text("deleted_at IS NULL"))


_IDENTITY = ("owner", "name", "sha256", "zip_names")


class UploadState(StrEnum):
    """State of an upload.

        receiving ─► complete ◄─► admitting ─► admitted      each but admitting can become deleting
                        │            │
                        └► refused ◄─┘   (and from refused to admitting, when tried again)

    The bytes exist until the upload is admitted; those of a refused upload are whole as well.
    """

    RECEIVING = "receiving"
    COMPLETE = "complete"
    ADMITTING = "admitting"
    """Its dataset is being ingested from its bytes."""
    ADMITTED = "admitted"
    """Its dataset has the recordings, and its file is deleted. The row answers repeated requests until it expires."""
    REFUSED = "refused"
    """The archive or the recording was not accepted."""
    DELETING = "deleting"
    """Deleted or expired: its file goes first, then its row."""


class Dataset(Table, table=True):
    """Recordings of one voice. Immutable once ingested; a deleted dataset keeps its row, but no file.

    While it is `ingesting`, its bytes are those of the upload that is `admitting`, or another dataset's of its sha256,
    or those of the dataset that it is derived from, or downloads, which come first.
    """

    __tablename__ = "datasets"
    __table_args__ = (
        sa.CheckConstraint(in_sql("status", DatasetStatus), name="status_known"),
        sa.CheckConstraint("status <> 'invalid' OR reason IS NOT NULL", name="invalid_has_reason"),
        # One dataset for the same bytes, read the same way, and name of an owner, until it is deleted.
        sa.Index("uq_datasets_owner_name_sha256", *_IDENTITY, unique=True, **_NOT_DELETED),
    )

    id: str = Field(primary_key=True)
    owner: str = owner_column()
    name: str
    status: str = DatasetStatus.VALIDATING
    reason: str | None = None
    """Reason why it is invalid, or why its ingestion waits."""
    sha256: str
    """Hash of the upload or the download; of several downloads a digest of their hashes and names, of a derived dataset
    one of its origin's and of what it is without, and while it is downloaded one of its addresses."""
    fetch: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    """While it is downloaded: `urls`, and the fields of `rvc_train.schemas.datasets.DatasetFetch`. The addresses, which
    may be secrets, are not kept any longer."""
    derived_from: str | None = None
    """Id of the dataset that it is made of, by leaving recordings out."""
    without: list[str | list[float]] | None = Field(default=None, sa_column=nullable_json())
    """Names of the recordings that it leaves out of that dataset; parts of others as [number, start, end]."""
    zip_names: str = Field(default=AUTO, sa_column_kwargs={"server_default": AUTO})
    """Code page in which names of zips are read; `auto`: chosen by the names."""
    size: int = Field(sa_type=sa.BigInteger)
    """Bytes of the upload, or of the recordings of a derived dataset."""
    stored_bytes: int | None = Field(default=None, sa_type=sa.BigInteger)
    """Bytes of the unpacked recordings; while these are ingested, the bytes reserved for them. None for datasets before
    schema 0008, which count `size` instead."""
    num_files: int
    """0 until the recordings are ingested."""
    num_usable: int | None = None
    seconds: float | None = None
    notes: list[str] = Field(default_factory=list, sa_type=sa.JSON)
    report: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    created_at: datetime = Field(sa_type=UtcDateTime)
    validated_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    consent: dict[str, Any] | None = Field(default=None, sa_column=nullable_json())
    """Consent of the speaker (`rvc_engine.card.provenance.Consent`)."""
    consent_bytes: int = Field(default=0, sa_type=sa.BigInteger, sa_column_kwargs={"server_default": "0"})
    """Bytes of its document."""


class JobConsent(Table, table=True):
    """Consent for a job's recordings as it was at submission. Jobs without one have no row."""

    __tablename__ = "job_consents"

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    consent: dict[str, Any] = Field(sa_type=sa.JSON)


class BaseWeights(Table, table=True):
    """Base weights of an owner, by name. The row comes before its files get their place, and goes before them."""

    __tablename__ = "base_weights"
    __table_args__ = (sa.UniqueConstraint("owner", "name"),)

    id: str = Field(primary_key=True)
    owner: str
    name: str
    size: int = Field(sa_type=sa.BigInteger)
    """Bytes of all files."""
    files: dict[str, dict[str, Any]] = Field(sa_type=sa.JSON)
    """Descriptions (`rvc_engine.weights.own.OwnFile`) of `generator` and `discriminator`, or of one of them."""
    created_at: datetime = Field(sa_type=UtcDateTime)


class Upload(Table, table=True):
    """Bytes on their way to become a dataset. The length of its file is the number of bytes received."""

    __tablename__ = "uploads"
    __table_args__ = (
        sa.CheckConstraint("length > 0", name="length_positive"),
        sa.CheckConstraint(in_sql("state", UploadState), name="state_known"),
        sa.CheckConstraint(
            "(state IN ('admitted', 'admitting')) = (dataset_id IS NOT NULL)", name="admitted_exactly_with_dataset"
        ),
    )

    id: str = Field(primary_key=True)
    owner: str
    state: str = UploadState.RECEIVING
    """Changed by `change_upload` alone."""
    is_resumable: bool = True
    """False for the body of a single request, whose id no client has."""
    length: int = Field(sa_type=sa.BigInteger)
    received: int = Field(default=0, sa_type=sa.BigInteger)
    """Bytes in the file at the last change of the row, for the reservation of the rest; there may be more."""
    sha256: str | None = None
    """Hash of all bytes, where it was computed while they were received."""
    tus_metadata: str
    """As the client sent it."""
    unverified_from: int | None = Field(default=None, sa_type=sa.BigInteger)
    """Offset of a chunk whose checksum is not verified yet: bytes from here on do not count."""
    dataset_id: str | None = None
    """The dataset made from it."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime, index=True)


def change_upload(session: Session, upload_id: str, states: Collection[UploadState], **columns: object) -> bool:
    """Change an upload that is in one of `states`; False, and nothing is changed, if it is in another or deleted."""
    statement = sa.update(Upload).where(col(Upload.id) == upload_id, col(Upload.state).in_(states))
    return bool(session.connection().execute(statement.values(**columns)).rowcount)
