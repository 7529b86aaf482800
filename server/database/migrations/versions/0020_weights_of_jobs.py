"""Jobs that wait for a download of weights."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | Sequence[str] | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("fetch_weights", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("weights_progress", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "weights_progress")
    op.drop_column("jobs", "fetch_weights")
