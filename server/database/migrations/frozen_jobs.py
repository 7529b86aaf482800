"""Trigger that rejects changes of finished jobs, for migrations that add columns to jobs."""

from alembic import op

TERMINAL = "OLD.status IN ('succeeded', 'failed', 'cancelled')"


def freeze(columns: str) -> None:
    """Reject changes of these columns of a finished job, and of no others."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER IF EXISTS finished_jobs_are_frozen")
        op.execute(
            f"CREATE TRIGGER finished_jobs_are_frozen BEFORE UPDATE OF {columns} ON jobs WHEN {TERMINAL} "
            "BEGIN SELECT RAISE(ABORT, 'a finished job does not change'); END"
        )
        return
    op.execute("DROP TRIGGER IF EXISTS finished_jobs_are_frozen ON jobs")
    op.execute(
        f"CREATE TRIGGER finished_jobs_are_frozen BEFORE UPDATE OF {columns} ON jobs FOR EACH ROW WHEN ({TERMINAL}) "
        "EXECUTE FUNCTION refuse_change_of_finished_job()"
    )
