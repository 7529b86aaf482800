"""Tokens, random with a prefix and stored only as SHA-256, and browser sessions opened with one."""

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import col, select

from rvc_train.schemas.access import Scope, TokenCreate
from server.auth.audit import record, record_as
from server.auth.principal import ADMIN_SCOPES, Principal
from server.database.engine import read_session, write_session
from server.database.tables import LOCAL_OWNER, BrowserSession, Token, new_id
from server.errors import NotFound

PREFIX = "rvct_"
_BOOTSTRAP_TOKEN = "RVC_TRAIN_TOKEN"  # noqa: S105 - the name of a variable
KNOWN_SECONDS = 10.0
SHOWN_CHARACTERS = 9
"""Characters of a token that are shown: the prefix and a few more, enough to distinguish tokens."""


def hash_of(secret: str) -> str:
    """The stored hash of a secret. Secrets have 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenService:
    """Tokens and sessions of one database."""

    def __init__(
        self, engine: sa.Engine, clock: Callable[[], datetime], bootstrap_token: str | None, session_hours: float
    ) -> None:
        """`bootstrap_token`: RVC_TRAIN_TOKEN, which has all scopes and no row."""
        self._engine = engine
        self._clock = clock
        self._bootstrap_hash = None if bootstrap_token is None else hash_of(bootstrap_token)
        self._session_hours = session_hours
        self._uses: dict[str, datetime] = {}
        """Times of use not yet written to the rows, so that no request waits for a write."""
        self._known: frozenset[str] = frozenset()
        self._known_at = -float("inf")

    # Tokens

    def create(self, request: TokenCreate) -> tuple[Token, str]:
        """Create a token; returns the row and the secret, which cannot be shown again."""
        secret = PREFIX + secrets.token_urlsafe(32)
        now = self._clock()
        expires_at = None if request.expires_in_days is None else now + timedelta(days=request.expires_in_days)
        token = Token(
            id=new_id("tok"),
            owner=request.owner,
            name=request.name,
            begins=secret[:SHOWN_CHARACTERS],
            sha256=hash_of(secret),
            scopes=[str(scope) for scope in request.scopes],
            created_at=now,
            expires_at=expires_at,
        )
        with write_session(self._engine) as session:
            session.add(token)
            record(session, "token.created", token.id, owner=token.owner, scopes=token.scopes)
        return token, secret

    def list(self, *, after: str | None, limit: int) -> tuple[Sequence[Token], bool]:
        """Tokens older than `after`, revoked ones included, newest first; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(Token).order_by(col(Token.id).desc()).limit(limit + 1)
            if after is not None:
                query = query.where(col(Token.id) < after)
            found = session.exec(query).all()
        for token in found:
            token.last_used_at = self._uses.get(token.id, token.last_used_at)
        return found[:limit], len(found) > limit

    def revoke(self, token_id: str) -> None:
        """Revoke a token and the sessions opened with it. Raises NotFound."""
        with write_session(self._engine) as session:
            token = session.get(Token, token_id, with_for_update=True)
            if token is None:
                raise NotFound(f"there is no token {token_id}")
            if token.revoked_at is None:
                token.revoked_at = self._clock()
                session.add(token)
                session.execute(sa.delete(BrowserSession).where(col(BrowserSession.token_id) == token_id))
                record(session, "token.revoked", token_id, owner=token.owner)

    def authenticate(self, secret: str) -> Principal | None:
        """The principal of a token; None for an invalid one."""
        digest = hash_of(secret)
        if self._bootstrap_hash is not None and secrets.compare_digest(digest, self._bootstrap_hash):
            return Principal(LOCAL_OWNER, ADMIN_SCOPES)
        with read_session(self._engine) as session:
            token = session.exec(select(Token).where(Token.sha256 == digest)).first()
        return None if token is None or not self._is_valid(token) else self._record_use(token)

    def may_be_valid(self, secret: str) -> bool:
        """Whether a token or session with this secret existed up to ten seconds ago.

        However often it is called, it queries the database only once in that time: for addresses that guess.
        """
        now = time.monotonic()
        if now - self._known_at >= KNOWN_SECONDS:
            self._known_at, today = now, self._clock()
            is_valid = sa.or_(col(Token.expires_at).is_(None), col(Token.expires_at) > today)
            with read_session(self._engine) as session:
                tokens = session.exec(select(Token.sha256).where(col(Token.revoked_at).is_(None), is_valid)).all()
                sessions = session.exec(
                    select(BrowserSession.sha256).where(col(BrowserSession.expires_at) > today)
                ).all()
            self._known = frozenset([*tokens, *sessions])
        digest = hash_of(secret)
        return digest in self._known or digest == self._bootstrap_hash

    def _is_valid(self, token: Token) -> bool:
        return token.revoked_at is None and (token.expires_at is None or token.expires_at > self._clock())

    def _record_use(self, token: Token) -> Principal:
        self._uses[token.id] = self._clock()
        return Principal(token.owner, frozenset(Scope(scope) for scope in token.scopes), token.id)

    def clean_up(self) -> None:
        """Write times of use to the rows and delete expired sessions. Called every minute by the scheduler."""
        uses, self._uses = self._uses, {}
        now = self._clock()
        with read_session(self._engine) as session:
            expired = sa.select(sa.func.count()).where(col(BrowserSession.expires_at) <= now)
            if not uses and not session.execute(expired).scalar():
                return
        with write_session(self._engine) as session:
            # Requests may still add to this dictionary; in order, or two servers could wait for each other's rows.
            for token_id, used_at in sorted(uses.copy().items()):
                session.execute(sa.update(Token).where(col(Token.id) == token_id).values(last_used_at=used_at))
            session.execute(sa.delete(BrowserSession).where(col(BrowserSession.expires_at) <= now))

    # Sessions

    def open_session(self, secret: str, *, address: str = "", request_id: str = "") -> tuple[str, datetime] | None:
        """Open a browser session with a token: its id, for a cookie, and its expiry; None for an invalid token."""
        principal = self.authenticate(secret)
        if principal is None:
            return None
        session_id = secrets.token_urlsafe(32)
        now = self._clock()
        expires_at = now + timedelta(hours=self._session_hours)
        row = BrowserSession(
            sha256=hash_of(session_id),
            token_id=principal.token_id,
            first_token_hash=self._bootstrap_hash if principal.token_id is None else None,
            created_at=now,
            expires_at=expires_at,
        )
        with write_session(self._engine) as session:
            session.add(row)
            actor = replace(principal, address=address, request_id=request_id)
            record_as(actor, session, "session.opened", principal.token_id or _BOOTSTRAP_TOKEN)
        return session_id, expires_at

    def close_session(self, session_id: str) -> None:
        """End a session; a no-op for an unknown one."""
        with write_session(self._engine) as session:
            session.execute(sa.delete(BrowserSession).where(col(BrowserSession.sha256) == hash_of(session_id)))

    def authenticate_session(self, session_id: str) -> Principal | None:
        """The principal of a session; None once it, or its token, is no longer valid."""
        with read_session(self._engine) as session:
            row = session.get(BrowserSession, hash_of(session_id))
            if row is None or row.expires_at <= self._clock():
                return None
            if row.token_id is None:
                is_same = row.first_token_hash is not None and row.first_token_hash == self._bootstrap_hash
                return Principal(LOCAL_OWNER, ADMIN_SCOPES) if is_same else None
            token = session.get(Token, row.token_id)
        return None if token is None or not self._is_valid(token) else self._record_use(token)
