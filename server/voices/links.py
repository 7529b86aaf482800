"""Links to voices: who has one can listen to a voice, and download its files where that is allowed, without a token.

A link has a secret of its own, of which only the hash is stored. One that has ended, was deleted, or never existed gets
the same answer, after the same query: nothing can be learned by trying.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.voices.links import (
    DEFAULT_SECONDS,
    MAX_SECONDS,
    VoiceLinkCreate,
    VoiceLinkCreated,
    VoiceLinkPublic,
)
from server.auth.audit import record
from server.auth.tokens import KNOWN_SECONDS, SHOWN_CHARACTERS, hash_of
from server.database.engine import read_session, write_session
from server.database.result_tables import VoiceLink
from server.database.tables import Job, new_id
from server.errors import Conflict, NotFound, Refused
from server.job_store.versions import VoiceKey, current_of, lock_voice
from server.voices.queries import voice_public
from server.voices.service import require_version

SECRET_BYTES = 32
MAX_LINKS = 100
"""Links of one voice, those that have ended included."""
KEPT_AFTER_END = timedelta(days=30)
"""Time in which a link that has ended is listed."""
ENDED = "this link has ended or is not complete; ask whoever sent it for a new one"


@dataclass(frozen=True)
class Opened:
    """A link and the version that it shows."""

    link: VoiceLink
    job: Job


class LinkService:
    """Links of one database."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime]) -> None:
        self._engine, self._clock = engine, clock
        self._uses: dict[str, tuple[int, datetime]] = {}
        """Uses not yet written to the rows, so that no reader waits for a write."""
        self._lock = threading.Lock()
        self._known: frozenset[str] = frozenset()
        self._known_at = -float("inf")

    def create(self, key: VoiceKey, request: VoiceLinkCreate, base_url: str) -> VoiceLinkCreated:
        """Create a link. `base_url`: address of the server, without a slash at its end. NotFound, Refused, Conflict."""
        now = self._clock()
        secret = secrets.token_urlsafe(SECRET_BYTES)
        row = VoiceLink(
            id=new_id("lnk"),
            owner=key.owner,
            name=key.name,
            job_id=request.job_id,
            begins=secret[:SHOWN_CHARACTERS],
            sha256=hash_of(secret),
            downloads=request.downloads,
            note=request.note,
            created_at=now,
            expires_at=_end(request, now),
        )
        with write_session(self._engine) as session:
            lock_voice(session, key, request.job_id)
            voice_public(session, key)
            if request.job_id is not None:
                require_version(session, key, request.job_id, "/job_id")
            session.execute(sa.delete(VoiceLink).where(*_of(key), col(VoiceLink.expires_at) < now - KEPT_AFTER_END))
            number = session.scalar(sa.select(sa.func.count()).select_from(VoiceLink).where(*_of(key)))
            if (number or 0) >= MAX_LINKS:
                raise Conflict(f"the voice has {MAX_LINKS} links, and can have no more; delete one that is not needed")
            session.add(row)
            session.flush()
            details = {"voice": key.name, "job_id": row.job_id, "downloads": row.downloads, "note": row.note}
            record(session, "link.created", row.id, expires_at=row.expires_at.isoformat(), **details)
            public = _public(row, now)
        return VoiceLinkCreated(**public.model_dump(), secret=secret, url=f"{base_url}/shared/{secret}")

    def page(self, key: VoiceKey, after: str | None, limit: int) -> tuple[list[VoiceLinkPublic], bool]:
        """Links of a voice, newest first; and whether more follow. NotFound."""
        with read_session(self._engine) as session:
            voice_public(session, key)
            query = select(VoiceLink).where(*_of(key)).order_by(col(VoiceLink.id).desc()).limit(limit + 1)
            if after is not None:
                query = query.where(col(VoiceLink.id) < after)
            rows = session.exec(query).all()
        return [self._counted(row) for row in rows[:limit]], len(rows) > limit

    def get(self, key: VoiceKey, link_id: str) -> VoiceLinkPublic:
        """One link. NotFound."""
        with read_session(self._engine) as session:
            row = session.exec(select(VoiceLink).where(*_of(key), VoiceLink.id == link_id)).first()
        if row is None:
            raise NotFound(f"there is no link {link_id}")
        return self._counted(row)

    def _counted(self, row: VoiceLink) -> VoiceLinkPublic:
        """A link with the uses that are not written yet."""
        number, used_at = self._uses.get(row.id, (0, row.last_used_at))
        row.num_uses, row.last_used_at = row.num_uses + number, used_at
        return _public(row, self._clock())

    def delete(self, key: VoiceKey, link_id: str) -> None:
        """Delete a link, which ends it at once. NotFound."""
        with write_session(self._engine) as session:
            gone = sa.delete(VoiceLink).where(*_of(key), col(VoiceLink.id) == link_id)
            if not session.connection().execute(gone).rowcount:
                raise NotFound(f"there is no link {link_id}")
            record(session, "link.deleted", link_id, voice=key.name)

    def find(self, secret: str) -> Opened | None:
        """The link with a secret; None unless it is valid, and has a version to show."""
        with read_session(self._engine) as session:
            is_valid = col(VoiceLink.expires_at) > self._clock()
            link = session.exec(select(VoiceLink).where(VoiceLink.sha256 == hash_of(secret), is_valid)).first()
            if link is None:
                return None
            job = _shown(session, link)
            return None if job is None else Opened(link, job)

    def count_use(self, link: VoiceLink) -> None:
        """Count that a voice was opened with a link."""
        with self._lock:
            number, _ = self._uses.get(link.id, (0, None))
            self._uses[link.id] = number + 1, self._clock()

    def write_uses(self) -> None:
        """Write the uses counted so far."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if uses:
            with write_session(self._engine) as session:
                for link_id, (number, used_at) in sorted(uses.items()):
                    values: dict[str, Any] = {"num_uses": col(VoiceLink.num_uses) + number, "last_used_at": used_at}
                    session.execute(sa.update(VoiceLink).where(col(VoiceLink.id) == link_id).values(**values))

    def may_be_valid(self, secret: str) -> bool:
        """Whether a link with this secret existed up to ten seconds ago: for addresses that guess.

        However often it is called, it queries the database only once in that time.
        """
        now = time.monotonic()
        if now - self._known_at >= KNOWN_SECONDS:
            self._known_at = now
            query = select(VoiceLink.sha256).where(col(VoiceLink.expires_at) > self._clock())
            with read_session(self._engine) as session:
                self._known = frozenset(session.exec(query).all())
        return hash_of(secret) in self._known


def _of(key: VoiceKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (col(VoiceLink.owner) == key.owner, col(VoiceLink.name) == key.name)


def _shown(session: Session, link: VoiceLink) -> Job | None:
    """The version that a link shows: always the same one, or the current one."""
    if link.job_id is None:
        return current_of(session, VoiceKey(link.owner, link.name))
    return session.exec(select(Job).where(Job.id == link.job_id)).first()


def _end(request: VoiceLinkCreate, now: datetime) -> datetime:
    if request.expires_at is None:
        seconds = DEFAULT_SECONDS if request.expires_in_seconds is None else request.expires_in_seconds
        return now + timedelta(seconds=seconds)
    if not now < request.expires_at <= now + timedelta(seconds=MAX_SECONDS):
        raise Refused("the end is in the past, or more than a year from now", "/expires_at")
    return request.expires_at


def _public(row: VoiceLink, now: datetime) -> VoiceLinkPublic:
    fields = {name: value for name, value in row.model_dump().items() if name in VoiceLinkPublic.model_fields}
    return VoiceLinkPublic(**fields, has_ended=row.expires_at <= now)
