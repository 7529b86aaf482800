"""Webhooks: replaced secrets, and since when they fail. Instance: the version that can read the schema."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | Sequence[str] | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("webhooks") as webhooks:
        webhooks.add_column(sa.Column("old_secrets", sa.JSON(), nullable=False, server_default="[]"))
        webhooks.add_column(sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
        webhooks.add_column(sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("instance") as instance:
        instance.add_column(sa.Column("written_by", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("instance") as instance:
        instance.drop_column("written_by")
    with op.batch_alter_table("webhooks") as webhooks:
        for name in ("failing_since", "disabled_at", "old_secrets"):
            webhooks.drop_column(name)
