"""Idempotency keys: a repeated request is carried out once, and gets the same answer each time.

A key belongs to an owner and to one payload. It is kept for a day, stored in the same transaction as the job.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from server.database.engine import advisory_lock
from server.database.tables import IdempotencyKey, Job
from server.errors import Refused, StillRunning

RETENTION_HOURS = 24


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an idempotency key."""

    owner: str
    key: str
    fingerprint: str
    """Hash of the payload."""


def fingerprint(*parts: Any) -> str:
    """Hash of a payload of JSON-like values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def lock(session: Session, idempotent: IdempotentRequest) -> None:
    """Wait for another server's transaction under the same key, and make others wait until this one ends."""
    advisory_lock(session, f"idempotency key {idempotent.key} of {idempotent.owner}")


def find(session: Session, idempotent: IdempotentRequest, now: datetime) -> IdempotencyKey | None:
    """The row of an earlier request with the same key, or None. Refused when its payload was another one.

    A key whose job was deleted is free again.
    """
    oldest = now - timedelta(hours=RETENTION_HOURS)
    row = session.get(IdempotencyKey, (idempotent.owner, idempotent.key))
    if row is None or row.created_at < oldest:
        return None
    if row.job_id and session.exec(select(Job.number).where(Job.id == row.job_id)).first() is None:
        return None
    if row.fingerprint != idempotent.fingerprint:
        raise Refused("this Idempotency-Key was used for another request; use a new key", header="Idempotency-Key")
    return row


def store(session: Session, idempotent: IdempotentRequest, job_id: str, answer: str | None, now: datetime) -> None:
    """Store the answer under the key, and delete keys that are older than a day. `job_id`: empty without a job."""
    is_old = col(IdempotencyKey.created_at) < now - timedelta(hours=RETENTION_HOURS)
    is_this = sa.and_(col(IdempotencyKey.owner) == idempotent.owner, col(IdempotencyKey.key) == idempotent.key)
    session.execute(sa.delete(IdempotencyKey).where(sa.or_(is_old, is_this)))
    session.add(
        IdempotencyKey(
            owner=idempotent.owner,
            key=idempotent.key,
            fingerprint=idempotent.fingerprint,
            job_id=job_id,
            answer=answer,
            created_at=now,
        )
    )


class InFlightKeys:
    """Keys of the requests that this process is serving."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, owner: str, key: str | None) -> Iterator[None]:
        """Hold the key for one request; None: hold nothing. StillRunning when another request holds it."""
        if key is None:
            yield
            return
        with self._lock:
            if (owner, key) in self._keys:
                raise StillRunning("a request with this Idempotency-Key is still being served; try again in a moment")
            self._keys.add((owner, key))
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard((owner, key))
