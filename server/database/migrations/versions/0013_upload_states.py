"""States of uploads, and datasets that are being ingested."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | Sequence[str] | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATES = "state IN ('admitted', 'admitting', 'complete', 'deleting', 'receiving', 'refused')"
_STATUSES = "status IN ('ingesting', 'invalid', 'ready', 'validating')"


def upgrade() -> None:
    op.add_column("uploads", sa.Column("state", sa.String(), server_default="receiving", nullable=False))
    op.add_column("uploads", sa.Column("is_resumable", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("uploads", sa.Column("received", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("uploads", sa.Column("sha256", sa.String(), nullable=True))
    op.execute("UPDATE uploads SET state = 'admitted' WHERE dataset_id IS NOT NULL")
    with op.batch_alter_table("uploads") as batch:
        for name in ("state", "is_resumable", "received"):
            batch.alter_column(name, server_default=None)
        batch.create_check_constraint(op.f("ck_uploads_state_known"), _STATES)
        batch.create_check_constraint(
            op.f("ck_uploads_admitted_exactly_with_dataset"),
            "(state IN ('admitted', 'admitting')) = (dataset_id IS NOT NULL)",
        )
    with op.batch_alter_table("datasets") as batch:
        batch.drop_constraint(op.f("ck_datasets_status_known"), type_="check")
        batch.create_check_constraint(op.f("ck_datasets_status_known"), _STATUSES)
