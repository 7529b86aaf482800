"""The audit trail: who did what to what, written in the transaction of the deed.

Who it was comes from the request that is being served (`server.auth.principal.current_principal`); deeds of workers and
of periodic tasks are in the jobs' events and leave no trace here.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from server.auth.principal import Principal, current_principal
from server.database.engine import read_session, write_session
from server.database.tables import AuditEntry


def record(session: Session, action: str, target: str, **detail: Any) -> None:
    """Record an action, in the transaction that performs it, when there is a principal.

    `action`: `job.submitted` and the like.
    """
    principal = current_principal.get()
    if principal is not None:
        record_as(principal, session, action, target, **detail)


def record_as(principal: Principal, session: Session, action: str, target: str, **detail: Any) -> None:
    """As `record`, for the principal given."""
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
    """What was done, to read."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def list(
        self, *, actor: str | None, action: str | None, target: str | None, after: int | None, limit: int
    ) -> tuple[Sequence[AuditEntry], bool]:
        """Lines, newest first, beginning behind the one numbered `after`; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(AuditEntry).order_by(col(AuditEntry.number).desc()).limit(limit + 1)
            wanted = ((AuditEntry.actor, actor), (AuditEntry.action, action), (AuditEntry.target, target))
            for column, value in wanted:
                if value is not None:
                    query = query.where(col(column) == value)
            if after is not None:
                query = query.where(col(AuditEntry.number) < after)
            found = session.exec(query).all()
            return found[:limit], len(found) > limit

    def record_rejected_token(self, address: str, path: str, request_id: str) -> None:
        """Record a token that is not valid. Called by `server.auth.authentication`, which limits how often."""
        with write_session(self._engine) as session:
            session.add(
                AuditEntry(
                    created_at=self._clock(),
                    actor="",
                    address=address,
                    request_id=request_id,
                    action="token.refused",
                    target=path,
                    detail={},
                )
            )

    def delete_old(self, days: float) -> None:
        """Delete lines older than so many days."""
        with write_session(self._engine) as session:
            oldest = self._clock() - timedelta(days=days)
            session.execute(sa.delete(AuditEntry).where(col(AuditEntry.created_at) < oldest))
