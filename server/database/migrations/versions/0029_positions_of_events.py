"""Positions of events in the one order of all jobs' events. Events of before have none."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0029"
down_revision: str | Sequence[str] | None = "0028"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    counter = op.create_table(
        "event_counter",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_event_counter_single_row")),
        sa.PrimaryKeyConstraint("number", name="pk_event_counter"),
    )
    op.bulk_insert(counter, [{"number": 1, "position": 0}])
    op.add_column("events", sa.Column("position", sa.BigInteger(), nullable=True))
    has_one = sa.text("position IS NOT NULL")
    op.create_index(
        "ix_events_position_job_number_seq",
        "events",
        ["position", "job_number", "seq"],
        sqlite_where=has_one,
        postgresql_where=has_one,
    )


def downgrade() -> None:
    op.drop_index("ix_events_position_job_number_seq", "events")
    op.drop_column("events", "position")
    op.drop_table("event_counter")
