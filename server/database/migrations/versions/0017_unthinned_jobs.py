"""Jobs that have ended, and whose progress and metric events are to be thinned."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | Sequence[str] | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "unthinned_jobs",
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name=op.f("fk_unthinned_jobs_job_number"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_number", name=op.f("pk_unthinned_jobs")),
    )
    op.execute("INSERT INTO unthinned_jobs (job_number) SELECT number FROM jobs WHERE finished_at IS NOT NULL")


def downgrade() -> None:
    op.drop_table("unthinned_jobs")
