"""Voices, their links, and versions from other servers."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0025"
down_revision: str | Sequence[str] | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Long because it creates four tables.
def upgrade() -> None:
    op.create_table(
        "voices",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("notes", sa.String(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("current_job_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_voices"),
        sa.ForeignKeyConstraint(["current_job_id"], ["jobs.id"], name="fk_voices_current_job_id", ondelete="SET NULL"),
    )
    op.create_index("ix_voices_current_job_id", "voices", ["current_job_id"])
    op.create_table(
        "deleted_versions",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", "job_number", name="pk_deleted_versions"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "imported_versions",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("bundle_sha256", sa.String(), nullable=False),
        sa.Column("origin", sa.JSON(), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_number", name="pk_imported_versions"),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name="fk_imported_versions_job_number", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "voice_links",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("begins", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("downloads", sa.Boolean(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("num_uses", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_voice_links"),
        sa.UniqueConstraint("sha256", name="uq_voice_links_sha256"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_voice_links_job_id", ondelete="CASCADE"),
    )
    op.create_index("ix_voice_links_job_id", "voice_links", ["job_id"])
    op.create_index("ix_voice_links_owner_name", "voice_links", ["owner", "name"])
    op.create_index("ix_jobs_owner_name_number", "jobs", ["owner", "name", "number"])


def downgrade() -> None:
    op.drop_index("ix_jobs_owner_name_number", "jobs")
    for name in ("voice_links", "imported_versions", "deleted_versions", "voices"):
        op.drop_table(name)
