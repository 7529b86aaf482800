"""Retries of jobs, where attempts ran and how fast, what workers are, and the first answer under an idempotency key."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from server.database.migrations.frozen_jobs import freeze

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

FROZEN = (
    "number, id, owner, name, dataset_id, status, config, priority, max_attempts, max_duration_seconds, retry_of, "
    "retry_from, token, worker_id, heartbeat, not_before, claims, failures, recoveries, stage, progress, eta_seconds, "
    "epoch, total_epochs, step, total_steps, step_seconds, losses, num_warnings, last_seq, error_code, error_message, "
    "created_at, queued_at, started_at, finished_at"
)
_ADDED = {
    "jobs": (("retry_of", sa.String()), ("retry_from", sa.String())),
    "attempts": (
        ("device", sa.String()),
        ("device_name", sa.String()),
        ("step_seconds", sa.Float()),
        ("stage_seconds", sa.JSON()),
    ),
    "workers": (("device_name", sa.String()), ("version", sa.String()), ("drain_mode", sa.String())),
    "idempotency_keys": (("answer", sa.String()),),
}


def upgrade() -> None:
    for table, columns in _ADDED.items():
        for name, kind in columns:
            op.add_column(table, sa.Column(name, kind, nullable=True))
    freeze(FROZEN)
