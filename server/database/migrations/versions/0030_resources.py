"""Requirements of jobs, what workers have, and GPU time of owners."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from server.database.migrations.frozen_jobs import freeze

revision: str = "0030"
down_revision: str | Sequence[str] | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FROZEN_BEFORE = (
    "number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, "
    "retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, "
    "epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, "
    "created_at, queued_at, started_at, finished_at, fetch_weights, weights_progress, start_from, training_end"
)


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
    freeze(f"{FROZEN_BEFORE}, resources, needs")
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
    freeze(FROZEN_BEFORE)
    op.drop_column("jobs", "needs")
    op.drop_column("jobs", "resources")
