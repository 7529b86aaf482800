"""Datasets that are another one without some of its recordings."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | Sequence[str] | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("derived_from", sa.String(), nullable=True))
    op.add_column("datasets", sa.Column("without", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "without")
    op.drop_column("datasets", "derived_from")
