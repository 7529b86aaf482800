"""The number of an attempt's last write, so that one whose answer was lost counts once."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | Sequence[str] | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("last_write", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("attempts", "last_write")
