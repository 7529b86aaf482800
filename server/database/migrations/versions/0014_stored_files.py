"""Stored files of jobs, each once and with its owner; the measured size of a job's other files is a row as well."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | Sequence[str] | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_PUBLISHED = "SELECT job_number, path, size, sha256, created_at FROM artifacts"
_PREVIEWS = "SELECT job_number, {0}_path, {0}_size, {0}_sha256, created_at FROM previews"


def upgrade() -> None:
    op.create_table(
        "stored_files",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name=op.f("fk_stored_files_job_number"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_stored_files")),
    )
    op.create_index(op.f("ix_stored_files_owner"), "stored_files", ["owner"])
    op.create_index(op.f("ix_stored_files_job_number"), "stored_files", ["job_number"])
    files = " UNION ALL ".join([_PUBLISHED, *(_PREVIEWS.format(kind) for kind in ("audio", "picture", "recording"))])
    op.execute(
        "INSERT INTO stored_files (path, owner, job_number, bytes, sha256, created_at) "  # noqa: S608 - constants
        "SELECT files.path, MIN(jobs.owner), MIN(files.job_number), MAX(files.size), MIN(files.sha256), "
        f"MIN(files.created_at) FROM ({files}) AS files JOIN jobs ON jobs.number = files.job_number GROUP BY files.path"
    )
    op.execute(
        "INSERT INTO stored_files (path, owner, job_number, bytes, sha256, created_at) "
        "SELECT 'jobs/' || jobs.id, jobs.owner, jobs.number, job_sizes.bytes, NULL, job_sizes.measured_at "
        "FROM job_sizes JOIN jobs ON jobs.number = job_sizes.job_number"
    )
    op.drop_table("job_sizes")


def downgrade() -> None:
    op.create_table(
        "job_sizes",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name=op.f("fk_job_sizes_job_number"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_number", name=op.f("pk_job_sizes")),
    )
    op.execute("INSERT INTO job_sizes SELECT job_number, bytes, created_at FROM stored_files WHERE sha256 IS NULL")
    op.drop_table("stored_files")
