"""Numbers of jobs by status and the like, kept up to date by triggers: see `server.database.derived_tables`."""

from collections import defaultdict

import sqlalchemy as sa
from sqlmodel import Session, col

from server.database.derived_tables import CountChange
from server.database.engine import write_session


def counts(session: Session) -> dict[str, dict[str, int]]:
    """All numbers by name and label."""
    total = sa.func.sum(col(CountChange.change))
    kind = (col(CountChange.name), col(CountChange.label))
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, label, number in session.connection().execute(sa.select(*kind, total).group_by(*kind)):
        found[name][label] = int(number)
    return found


def fold_counts(engine: sa.Engine) -> None:
    """Replace the changes by their sums, so that there are few. A change that is committed meanwhile stays a row."""
    with write_session(engine) as session:
        gone = sa.delete(CountChange).returning(col(CountChange.name), col(CountChange.label), col(CountChange.change))
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for name, label, change in session.connection().execute(gone):
            sums[name, label] += change
        rows = [{"name": name, "label": label, "change": change} for (name, label), change in sums.items()]
        if rows:
            session.connection().execute(sa.insert(CountChange), rows)
