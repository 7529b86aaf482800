"""The code page in which names of zips are read, of which the same bytes may be different datasets."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str | Sequence[str] | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEX = "uq_datasets_owner_name_sha256"


def upgrade() -> None:
    op.add_column("datasets", sa.Column("zip_names", sa.String(), nullable=False, server_default="auto"))
    _create_index("owner", "name", "sha256", "zip_names")


def _create_index(*columns: str) -> None:
    condition = sa.text("deleted_at IS NULL")
    op.drop_index(_INDEX, "datasets")
    op.create_index(_INDEX, "datasets", list(columns), unique=True, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    op.execute("UPDATE datasets SET name = name || ' (' || zip_names || ')' WHERE zip_names <> 'auto'")
    _create_index("owner", "name", "sha256")
    op.drop_column("datasets", "zip_names")
