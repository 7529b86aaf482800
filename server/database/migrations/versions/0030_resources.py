"""Requirements of jobs, what workers have, and GPU time of owners."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0030"
down_revision: str | Sequence[str] | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("resources", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("jobs", sa.Column("needs", sa.String(), nullable=False, server_default=""))
    is_queued = sa.text("status = 'queued'")
    op.create_index(
        "ix_jobs_queue_by_needs",
        "jobs",
        ["status", "needs", "priority", "owner", "number"],
        sqlite_where=is_queued,
        postgresql_where=is_queued,
    )
    op.create_index("ix_conversions_waiting", "conversions", ["status", "owner", "number"])
    op.add_column("workers", sa.Column("num_gpus", sa.Integer(), nullable=True))
    op.add_column("workers", sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("labels", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
    op.create_table(
        "owner_shares",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("gpu_seconds", sa.Float(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_owner_shares")),
    )


def downgrade() -> None:
    op.drop_table("owner_shares")
    for column in ("labels", "gpu_memory_bytes", "num_gpus"):
        op.drop_column("workers", column)
    op.drop_index("ix_conversions_waiting", "conversions")
    op.drop_index("ix_jobs_queue_by_needs", "jobs")
    op.drop_column("jobs", "needs")
    op.drop_column("jobs", "resources")
