"""Indexes in the order of the queue and of lists, labels and counts kept by triggers, sizes due, worker's schema."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from server.database.migrations.job_triggers import count_by_triggers, drop_triggers

revision: str = "0018"
down_revision: str | Sequence[str] | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NEVER = "1970-01-01 00:00:00.000000"
_QUEUED = "status = 'queued'"


def upgrade() -> None:
    _create_indexes()
    _create_tables()
    _mark_sizes_due()
    _keep_this_months_hours()
    for column in (sa.Column("schema_version", sa.String()), sa.Column("heartbeat_seconds", sa.Float())):
        op.add_column("workers", column)
    # Workers of before do not compare the schema when they claim: they finish their job, and end.
    op.execute(
        "UPDATE workers SET is_draining = true, drain_mode = 'finish' WHERE stopped_at IS NULL AND NOT is_draining"
    )


def _create_indexes() -> None:
    for name, table in (("ix_jobs_queue", "jobs"), ("ix_jobs_owner", "jobs"), ("ix_jobs_dataset_id", "jobs")):
        op.drop_index(name, table)
    _create_index("ix_jobs_queue", "status", sa.text("priority DESC"), "number", where=_QUEUED)
    _create_index("ix_jobs_queue_of_owner", "owner", "status", sa.text("priority DESC"), "number", where=_QUEUED)
    _create_index("ix_jobs_queued_at", "status", "queued_at", where=_QUEUED)
    _create_index("ix_jobs_worker_id", "worker_id", where="worker_id IS NOT NULL")
    _create_index("ix_jobs_retries", "dataset_id", where="retry_of IS NOT NULL")
    for column in ("status", "owner", "dataset_id", "name"):
        _create_index(f"ix_jobs_{column}_number", column, "number")
    _create_index("ix_jobs_owner_status_number", "owner", "status", "number")


def _create_index(name: str, *columns: Any, where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, "jobs", list(columns), sqlite_where=condition, postgresql_where=condition)


def _create_tables() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "job_labels",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("job_number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_number"], ["jobs.number"], name=op.f("fk_job_labels_job_number"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "value", "job_number", name=op.f("pk_job_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_job_labels_job_number"), "job_labels", ["job_number"])
    each = "json_each(jobs.labels)" if is_sqlite else "json_each_text(jobs.labels)"
    op.execute(
        "INSERT INTO job_labels (job_number, key, value) "  # noqa: S608 - constants
        f"SELECT jobs.number, each.key, each.value FROM jobs, {each} AS each"
    )
    op.create_table(
        "count_changes",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_count_changes")),
        sqlite_autoincrement=True,
    )
    for name, label, change, table in (
        ("jobs", "status", "count(*)", "jobs"),
        ("job_failures", "error_code", "count(*)", "jobs WHERE error_code IS NOT NULL"),
        ("attempts", "outcome", "count(*)", "attempts WHERE outcome IS NOT NULL"),
        ("stale_writes", "''", "coalesce(sum(stale_writes), 0)", "attempts"),
    ):
        group = "" if label == "''" else f" GROUP BY {label}"
        op.execute(
            f"INSERT INTO count_changes (name, label, change) SELECT '{name}', {label}, {change} FROM {table}{group}"  # noqa: S608 - constants
        )
    count_by_triggers()


def _mark_sizes_due() -> None:
    """Have the files of jobs measured that were not measured since they ended; the others have no files, or a row."""
    op.execute(
        "INSERT INTO stored_files (path, owner, job_number, bytes, sha256, created_at) "  # noqa: S608 - constants
        f"SELECT 'jobs/' || jobs.id, jobs.owner, jobs.number, 0, NULL, '{NEVER}' FROM jobs "
        "WHERE (jobs.claims > 0 OR jobs.retry_of IS NOT NULL) "
        "AND NOT EXISTS (SELECT 1 FROM stored_files WHERE stored_files.path = 'jobs/' || jobs.id)"
    )
    op.execute(
        f"UPDATE stored_files SET created_at = '{NEVER}' WHERE sha256 IS NULL AND EXISTS (SELECT 1 FROM jobs "  # noqa: S608
        "WHERE jobs.number = stored_files.job_number AND (jobs.finished_at IS NULL "
        "OR jobs.finished_at > stored_files.created_at))"
    )
    due = sa.text(f"sha256 IS NULL AND created_at = '{NEVER}'")
    op.create_index(
        "ix_stored_files_due",
        "stored_files",
        ["job_number"],
        sqlite_where=due,
        postgresql_where=sa.text("sha256 IS NULL AND created_at = '1970-01-01 00:00:00+00'::timestamptz"),
    )


def _keep_this_months_hours() -> None:
    """Add the hours of this month's ended attempts, which were summed up at each look, to those of deleted jobs."""
    now = datetime.now(UTC)
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    jobs = sa.table("jobs", sa.column("number"), sa.column("owner"))
    time = sa.DateTime(timezone=True)
    attempts = sa.table("attempts", sa.column("job_number"), sa.column("started_at", time), sa.column("ended_at", time))
    spent = sa.table("spent_hours", sa.column("owner"), sa.column("month"), sa.column("hours"))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    begin = start.replace(tzinfo=None) if is_sqlite else start
    query = (
        sa.select(jobs.c.owner, attempts.c.started_at, attempts.c.ended_at)
        .join(jobs, jobs.c.number == attempts.c.job_number)
        .where(attempts.c.ended_at > begin)
    )
    connection, hours = op.get_bind(), dict[str, float]()
    for owner, started, ended in connection.execute(query):
        hours[owner] = hours.get(owner, 0.0) + max(0.0, (ended - max(started, begin)).total_seconds()) / 3600
    for owner, number in hours.items():
        here = (spent.c.owner == owner, spent.c.month == f"{now:%Y-%m}")
        if connection.execute(sa.update(spent).where(*here).values(hours=spent.c.hours + number)).rowcount == 0:
            connection.execute(sa.insert(spent).values(owner=owner, month=f"{now:%Y-%m}", hours=number))


def downgrade() -> None:
    drop_triggers()
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("heartbeat_seconds")
        workers.drop_column("schema_version")
    op.drop_index("ix_stored_files_due", "stored_files")
    op.drop_table("count_changes")
    op.drop_table("job_labels")
    names = ("queue", "queue_of_owner", "queued_at", "worker_id", "retries", "owner_status_number")
    for name in (*names, *(f"{column}_number" for column in ("status", "owner", "dataset_id", "name"))):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", "priority", "number"])
    op.create_index("ix_jobs_owner", "jobs", ["owner"])
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"])
