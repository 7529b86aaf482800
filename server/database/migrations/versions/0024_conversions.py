"""Conversions, and which workers take them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0024"
down_revision: str | Sequence[str] | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_ENDED = "status IN ('cancelled', 'failed', 'succeeded')"


def upgrade() -> None:
    op.create_table(
        "conversions",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("voice", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("save", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("max_seconds", sa.Float(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("device", sa.String(), nullable=True),
        sa.Column("device_reason", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("worker_id", sa.String(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("heartbeat", sa.Integer(), nullable=False),
        sa.Column("recoveries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('cancelled', 'failed', 'running', 'succeeded', 'waiting')", name="status_known"),
        sa.CheckConstraint("(status = 'running') = (worker_id IS NOT NULL)", name="held_exactly_when_running"),
        sa.CheckConstraint(f"({_ENDED}) = (finished_at IS NOT NULL)", name="finished_exactly_when_ended"),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="failed_exactly_when_it_has_a_code"),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_fraction"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_conversions_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name="fk_conversions_worker_id"),
        sa.PrimaryKeyConstraint("number", name="pk_conversions"),
        sa.UniqueConstraint("id", name="uq_conversions_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_conversions_owner", "conversions", ["owner"])
    op.create_index("ix_conversions_job_id", "conversions", ["job_id"])
    op.create_index("ix_conversions_status_number", "conversions", ["status", "number"])
    op.add_column("workers", sa.Column("serves_conversions", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("workers", "serves_conversions")
    op.drop_table("conversions")
