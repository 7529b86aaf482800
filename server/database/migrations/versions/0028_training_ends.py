"""Ends of trainings that ended by themselves."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from server.database.migrations.frozen_jobs import freeze

revision: str = "0028"
down_revision: str | Sequence[str] | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FROZEN_BEFORE = (
    "number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, "
    "retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, "
    "epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, "
    "created_at, queued_at, started_at, finished_at, fetch_weights, weights_progress, start_from"
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("training_end", sa.JSON(), nullable=True))
    freeze(f"{FROZEN_BEFORE}, training_end")


def downgrade() -> None:
    freeze(FROZEN_BEFORE)
    op.drop_column("jobs", "training_end")
