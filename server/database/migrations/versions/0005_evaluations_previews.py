"""What saves are worth, and how they sound."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("held_out", sa.Boolean(), nullable=False),
        sa.Column("num_clips", sa.Integer(), nullable=False),
        sa.Column("is_best", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _of_job("evaluations"),
        sa.PrimaryKeyConstraint("job_number", "step", name=op.f("pk_evaluations")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "previews",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("clip", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        *(column for kind in ("audio", "picture", "recording") for column in _file(kind)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _of_job("previews"),
        sa.PrimaryKeyConstraint("job_number", "step", "clip", name=op.f("pk_previews")),
        sqlite_with_rowid=False,
    )


def _file(kind: str) -> tuple[sa.Column[str], sa.Column[int], sa.Column[str]]:
    return (
        sa.Column(f"{kind}_path", sa.String(), nullable=False),
        sa.Column(f"{kind}_size", sa.BigInteger(), nullable=False),
        sa.Column(f"{kind}_sha256", sa.String(), nullable=False),
    )


def _of_job(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_job_number")
    return sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name=name, ondelete="CASCADE")


def downgrade() -> None:
    op.drop_table("previews")
    op.drop_table("evaluations")
