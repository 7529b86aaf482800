"""Ends of trainings that ended by themselves."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0028"
down_revision: str | Sequence[str] | None = "0027"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("training_end", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "training_end")
