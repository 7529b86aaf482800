"""The audit trail: actor, action and target, written in the transaction of the action.

The actor is the principal of the current request (`server.auth.principal.current_principal`). Actions of workers and
periodic tasks are in the jobs' events, not here.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from server.auth.principal import Principal, current_principal
from server.database.engine import read_session, write_session
from server.database.tables import AuditEntry

MAX_PATH_LENGTH = 200
"""Characters of a path in an entry. Strangers choose it, and may send 64 KB."""


def record(session: Session, action: str, target: str, **detail: Any) -> None:
    """Record an action of the current principal, if any, in the transaction that performs it.

    `action`: such as `job.submitted`.
    """
    principal = current_principal.get()
    if principal is not None:
        record_as(principal, session, action, target, **detail)


def record_as(principal: Principal, session: Session, action: str, target: str, **detail: Any) -> None:
    """Record an action of the given principal."""
    entry = AuditEntry(
        created_at=datetime.now(UTC),
        actor=principal.owner,
        token_id=principal.token_id,
        address=principal.address,
        request_id=principal.request_id,
        action=action,
        target=target,
        detail=detail,
    )
    session.add(entry)


class AuditTrail:
    """Queries and maintenance of the audit trail."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def list(
        self, *, actor: str | None, action: str | None, target: str | None, after: int | None, limit: int
    ) -> tuple[Sequence[AuditEntry], bool]:
        """Entries older than number `after`, newest first; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(AuditEntry).order_by(col(AuditEntry.number).desc()).limit(limit + 1)
            filters = ((AuditEntry.actor, actor), (AuditEntry.action, action), (AuditEntry.target, target))
            for column, value in filters:
                if value is not None:
                    query = query.where(col(column) == value)
            if after is not None:
                query = query.where(col(AuditEntry.number) < after)
            found = session.exec(query).all()
            return found[:limit], len(found) > limit

    def record_rejected_token(self, address: str, path: str, request_id: str) -> None:
        """Record an invalid token. The caller, `server.auth.authentication`, limits the rate."""
        with write_session(self._engine) as session:
            session.add(
                AuditEntry(
                    created_at=self._clock(),
                    actor="",
                    address=address,
                    request_id=request_id,
                    action="token.refused",
                    target=repr(path[:MAX_PATH_LENGTH])[1:-1],  # any text, for databases and terminals to take
                    detail={},
                )
            )

    def delete_old(self, days: float) -> None:
        """Delete entries older than `days`."""
        with write_session(self._engine) as session:
            oldest = self._clock() - timedelta(days=days)
            session.execute(sa.delete(AuditEntry).where(col(AuditEntry.created_at) < oldest))
