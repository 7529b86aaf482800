"""Consents of speakers, of datasets and as jobs were submitted under them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0026"
down_revision: str | Sequence[str] | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("consent", sa.JSON(), nullable=True))
    op.add_column("datasets", sa.Column("consent_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "job_consents",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("consent", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_job_consents_job_number", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_number", name="pk_job_consents"),
    )


def downgrade() -> None:
    op.drop_table("job_consents")
    op.drop_column("datasets", "consent_bytes")
    op.drop_column("datasets", "consent")
