"""Jobs that wait for a download of weights."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from server.database.migrations.frozen_jobs import freeze

revision: str = "0020"
down_revision: str | Sequence[str] | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FROZEN_BEFORE = (
    "number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, "
    "retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, "
    "epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, "
    "created_at, queued_at, started_at, finished_at"
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("fetch_weights", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("weights_progress", sa.Float(), nullable=True))
    freeze(f"{FROZEN_BEFORE}, fetch_weights, weights_progress")


def downgrade() -> None:
    freeze(FROZEN_BEFORE)
    op.drop_column("jobs", "weights_progress")
    op.drop_column("jobs", "fetch_weights")
