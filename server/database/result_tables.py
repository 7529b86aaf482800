"""The tables of jobs' results: stored files, artifacts, evaluations, previews; voices, which are jobs of one name."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field

from server.database.base import Table, UtcDateTime


class StoredFileRow(Table, table=True):
    """A file of a job on disk, charged to its owner as long as an artifact or a preview of the job refers to it.

    The row with the path `jobs/<id>`, without a hash, stands for all files of the job without a row, as last measured.
    It exists from the first claim, or for a retry from the beginning; a job without it has no files.
    """

    __tablename__ = "stored_files"
    __table_args__ = (
        sa.Index(
            "ix_stored_files_due",
            "job_number",
            sqlite_where=sa.text("sha256 IS NULL AND created_at = '1970-01-01 00:00:00.000000'"),
            postgresql_where=sa.text("sha256 IS NULL AND created_at = '1970-01-01 00:00:00+00'::timestamptz"),
        ),
    )

    path: str = Field(primary_key=True)
    """As in `server.storage.local.StoredFile`."""
    owner: str = Field(index=True)
    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", index=True)
    bytes: int = Field(sa_type=sa.BigInteger)
    sha256: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    """Time of the publication, or of the measurement; 1970 where that is due."""


class Artifact(Table, table=True):
    """A file offered by a job. `path` is that of a `StoredFileRow`."""

    __tablename__ = "artifacts"
    __table_args__ = (sa.UniqueConstraint("job_number", "name"),)

    id: str = Field(primary_key=True)
    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE")
    kind: str
    name: str
    path: str
    size: int = Field(sa_type=sa.BigInteger)
    sha256: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class Evaluation(Table, table=True):
    """Scores of a save. A step repeated after a resume replaces its row and deletes later ones."""

    __tablename__ = "evaluations"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    step: int = Field(primary_key=True)
    epoch: int
    values: dict[str, float] = Field(default_factory=dict, sa_type=sa.JSON)
    """Scores by metric key."""
    held_out: bool
    num_clips: int
    is_best: bool
    """True for at most one row of a job."""
    created_at: datetime = Field(sa_type=UtcDateTime)


class Preview(Table, table=True):
    """A clip converted with the voice at a save. Paths as in `Artifact.path`."""

    __tablename__ = "previews"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    step: int = Field(primary_key=True)
    clip: int = Field(primary_key=True)
    epoch: int
    seconds: float
    scores: dict[str, float] = Field(default_factory=dict, sa_type=sa.JSON)
    audio_path: str
    audio_size: int = Field(sa_type=sa.BigInteger)
    audio_sha256: str
    picture_path: str
    picture_size: int = Field(sa_type=sa.BigInteger)
    picture_sha256: str
    recording_path: str
    recording_size: int = Field(sa_type=sa.BigInteger)
    recording_sha256: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class Voice(Table, table=True):
    """Settings of a voice by people. A voice exists without this row, as soon as a job of its name does."""

    __tablename__ = "voices"

    owner: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    """As `Job.name`."""
    notes: str = ""
    labels: dict[str, str] = Field(default_factory=dict, sa_type=sa.JSON)
    current_job_id: str | None = Field(default=None, foreign_key="jobs.id", ondelete="SET NULL", index=True)
    """The version chosen by hand; None: by evaluation."""
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)


class DeletedVersion(Table, table=True):
    """A deleted job of a voice that has others: the numbers of later versions stay as they are."""

    __tablename__ = "deleted_versions"
    __table_args__ = ({"sqlite_with_rowid": False},)

    owner: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    job_number: int = Field(primary_key=True)


class ImportedVersion(Table, table=True):
    """Origin of a version that was trained on another server."""

    __tablename__ = "imported_versions"

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
    bundle_sha256: str
    origin: dict[str, Any] = Field(sa_type=sa.JSON)
    """As the bundle's manifest has it: `rvc_train.schemas.voices.voices.ImportedFrom`, without what follows here."""
    imported_at: datetime = Field(sa_type=UtcDateTime)


class VoiceLink(Table, table=True):
    """A link to a voice. Its secret is not stored."""

    __tablename__ = "voice_links"
    __table_args__ = (sa.Index("ix_voice_links_owner_name", "owner", "name"),)

    id: str = Field(primary_key=True)
    owner: str
    name: str
    job_id: str | None = Field(default=None, foreign_key="jobs.id", ondelete="CASCADE", index=True)
    """The version that it shows; None: the current one."""
    begins: str
    """First characters of the secret."""
    sha256: str = Field(unique=True)
    downloads: bool
    note: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    num_uses: int = 0
