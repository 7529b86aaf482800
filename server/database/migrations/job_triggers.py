"""Triggers that keep `job_labels` and `count_changes` as the tables of jobs and attempts are.

A migration that rebuilds one of those tables in SQLite, which drops its triggers, calls `count_by_triggers` afterwards.
"""

from alembic import op

_LABELS = {"sqlite": "json_each(NEW.labels)", "postgresql": "json_each_text(NEW.labels)"}
_COPY = "INSERT INTO job_labels (job_number, key, value) SELECT NEW.number, each.key, each.value FROM {} AS each; "
_FORGET = "DELETE FROM job_labels WHERE job_number = NEW.number; "
_COUNT = "INSERT INTO count_changes (name, label, change) "


def _job(row: str, sign: str) -> str:
    return (
        f"{_COUNT}VALUES ('jobs', {row}.status, {sign}1); "
        f"{_COUNT}SELECT 'job_failures', {row}.error_code, {sign}1 WHERE {row}.error_code IS NOT NULL; "
    )


def _attempt(row: str, sign: str) -> str:
    return (
        f"{_COUNT}SELECT 'attempts', {row}.outcome, {sign}1 WHERE {row}.outcome IS NOT NULL; "
        f"{_COUNT}SELECT 'stale_writes', '', {sign}{row}.stale_writes WHERE {row}.stale_writes <> 0; "
    )


def _triggers(labels: str) -> dict[str, tuple[str, str]]:
    """Events and statements of each trigger."""
    copy = _COPY.format(labels)
    return {
        "jobs_are_counted_when_inserted": ("INSERT ON jobs", _job("NEW", "+") + copy),
        "jobs_are_counted_when_changed": ("UPDATE OF status ON jobs", _job("OLD", "-") + _job("NEW", "+")),
        "jobs_are_counted_when_deleted": ("DELETE ON jobs", _job("OLD", "-")),
        "labels_are_copied": ("UPDATE OF labels ON jobs", _FORGET + copy),
        "attempts_are_counted_when_inserted": ("INSERT ON attempts", _attempt("NEW", "+")),
        "attempts_are_counted_when_changed": (
            "UPDATE OF outcome, stale_writes ON attempts",
            _attempt("OLD", "-") + _attempt("NEW", "+"),
        ),
        "attempts_are_counted_when_deleted": ("DELETE ON attempts", _attempt("OLD", "-")),
    }


def count_by_triggers() -> None:
    """Create the triggers, in place of those that exist."""
    drop_triggers()
    dialect = op.get_bind().dialect.name
    for name, (event, statements) in _triggers(_LABELS[dialect]).items():
        if dialect == "sqlite":
            op.execute(f"CREATE TRIGGER {name} AFTER {event} BEGIN {statements}END")
            continue
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statements}RETURN NULL; END $$"
        )
        op.execute(f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW EXECUTE FUNCTION {name}()")


def drop_triggers() -> None:
    """Drop those of the triggers that exist."""
    dialect = op.get_bind().dialect.name
    for name, (event, _) in _triggers(_LABELS[dialect]).items():
        if dialect == "sqlite":
            op.execute(f"DROP TRIGGER IF EXISTS {name}")
        else:
            op.execute(f"DROP TRIGGER IF EXISTS {name} ON {event.split(' ON ')[1]}")
            op.execute(f"DROP FUNCTION IF EXISTS {name}")
