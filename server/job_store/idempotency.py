"""Idempotency keys: a request that comes twice is done once, and answered twice with the same words.

A key belongs to an owner, stands for one payload, and is kept for a day, in the transaction of what it guards.
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
from sqlmodel import Session, col

from server.database.tables import IdempotencyKey
from server.errors import Refused, StillRunning

RETENTION_HOURS = 24


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an idempotency key."""

    owner: str
    key: str
    fingerprint: str
    """Of what is asked for."""


def fingerprint(*parts: Any) -> str:
    """A hash of a payload, of JSON-like values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find(session: Session, idempotent: IdempotentRequest, now: datetime) -> IdempotencyKey | None:
    """What was done under the key before; None when nothing was. Refused when it was something else."""
    oldest = now - timedelta(hours=RETENTION_HOURS)
    row = session.get(IdempotencyKey, (idempotent.owner, idempotent.key))
    if row is None or row.created_at < oldest:
        return None
    if row.fingerprint != idempotent.fingerprint:
        raise Refused("this Idempotency-Key was used for another request; take a new key")
    return row


def store(session: Session, idempotent: IdempotentRequest, job_id: str, answer: str | None, now: datetime) -> None:
    """Write down what was done, and forget what was done more than a day ago."""
    oldest = now - timedelta(hours=RETENTION_HOURS)
    session.execute(sa.delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < oldest))
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
    """The keys whose requests are being served by this process."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, owner: str, key: str) -> Iterator[None]:
        """Hold the key for one request. StillRunning when another holds it."""
        mine = (owner, key)
        with self._lock:
            if mine in self._keys:
                raise StillRunning("a request with this Idempotency-Key is still being served; ask again in a moment")
            self._keys.add(mine)
        try:
            yield
        finally:
            with self._lock:
                self._keys.discard(mine)
