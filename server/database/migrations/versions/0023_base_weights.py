"""Base weights of one's own, and jobs that begin with the save of an earlier one."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from server.database.migrations.frozen_jobs import freeze

revision: str = "0023"
down_revision: str | Sequence[str] | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FROZEN_BEFORE = (
    "number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, "
    "retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, "
    "epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, "
    "created_at, queued_at, started_at, finished_at, fetch_weights, weights_progress"
)


def upgrade() -> None:
    op.create_table(
        "base_weights",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_base_weights"),
        sa.UniqueConstraint("owner", "name", name="uq_base_weights_owner_name"),
    )
    op.add_column("jobs", sa.Column("start_from", sa.JSON(), nullable=True))
    freeze(f"{FROZEN_BEFORE}, start_from")


def downgrade() -> None:
    freeze(FROZEN_BEFORE)
    op.drop_column("jobs", "start_from")
    op.drop_table("base_weights")
