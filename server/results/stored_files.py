"""Rows of stored files: each counts once, as long as an artifact or a preview of its job refers to it.

A file is on disk before its row, and is deleted after it. What a crash leaves in between has no row and is an orphan,
see `server.storage.orphans`.
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col

from server.database.result_tables import Artifact, Preview, StoredFileRow
from server.database.tables import Job
from server.storage.local import StoredFile

_REFERENCES = (
    (Artifact, Artifact.path),
    (Preview, Preview.audio_path),
    (Preview, Preview.picture_path),
    (Preview, Preview.recording_path),
)
"""All columns that refer to a stored file."""


def add_stored_files(session: Session, job: Job, files: Sequence[StoredFile], now: datetime) -> None:
    """Charge files to the job's owner, each once; in the transaction that adds the references to them."""
    assert job.number is not None  # noqa: S101 - the job has a row
    for file in {file.path: file for file in files}.values():
        if session.get(StoredFileRow, file.path) is None:
            session.add(
                StoredFileRow(
                    path=file.path,
                    owner=job.owner,
                    job_number=job.number,
                    bytes=file.size,
                    sha256=file.sha256,
                    created_at=now,
                )
            )
    session.flush()


def remove_unreferenced(session: Session, job_number: int) -> Sequence[str]:
    """Remove the rows of a job's files without a reference; returns their paths, to be deleted after the commit."""
    references = sa.union_all(
        *(sa.select(col(path)).where(col(table.job_number) == job_number) for table, path in _REFERENCES)
    )
    statement = (
        sa.delete(StoredFileRow)
        .where(
            col(StoredFileRow.job_number) == job_number,
            col(StoredFileRow.sha256).is_not(None),
            col(StoredFileRow.path).not_in(references),
        )
        .returning(col(StoredFileRow.path))
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).scalars().all()
