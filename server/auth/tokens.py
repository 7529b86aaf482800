"""Tokens, random with a prefix and stored only as SHA-256, and browser sessions opened with one.

A session is opened with a token, or with a sign-in code, which the holder of a token makes for a browser: it holds for
ten minutes and once, so a link may carry it. A code is a row of the table of sessions whose key no session's id has.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.access import Scope, TokenCreate
from server.auth.audit import record, record_as
from server.auth.principal import ADMIN_SCOPES, LOCAL_ADMINISTRATOR, Principal
from server.database.engine import read_connection, read_session, write_session
from server.database.tables import LOCAL_OWNER, BrowserSession, Token, new_id
from server.errors import NotFound

PREFIX = "rvct_"
LOCAL_TOKEN_ID = "tok_local"  # noqa: S105 - an id, not a secret
"""Id of the local token: the one of a server without `RVC_TRAIN_TOKEN`; see `server.auth.local_token`."""
CODE_LIFETIME = timedelta(minutes=10)
_CODE = "code:"
"""Beginning of the key of a sign-in code, which no session's key has: those are hexadecimal."""
_BOOTSTRAP_TOKEN = "RVC_TRAIN_TOKEN"  # noqa: S105 - the name of a variable
KNOWN_SECONDS = 10.0
MAX_SESSIONS = 100
"""Sessions of one token, and codes as well: one more ends the oldest."""
SHOWN_CHARACTERS = 9
"""Characters of a token that are shown: the prefix and a few more, enough to distinguish tokens."""
_BY_DIGEST = sa.select(
    *(col(column) for column in (Token.id, Token.owner, Token.scopes, Token.expires_at, Token.revoked_at))
).where(col(Token.sha256) == sa.bindparam("digest"))
"""Statement of every request, made once."""


def hash_of(secret: str) -> str:
    """The stored hash of a secret. Secrets have 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """Secret of a new token."""
    return PREFIX + secrets.token_urlsafe(32)


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
        self.instance_id = ""
        """Set when the instance is opened: part of the cookie's name."""
        self._uses: dict[str, datetime] = {}
        """Times of use not yet written to the rows, so that no request waits for a write."""
        self._known: frozenset[str] = frozenset()
        self._known_at = -float("inf")

    @property
    def cookie(self) -> str:
        """Name of the session's cookie. Browsers share cookies between all ports of a host, so it names the server."""
        return f"rvc_session_{self.instance_id}"

    # Tokens

    def create(self, request: TokenCreate) -> tuple[Token, str]:
        """Create a token; returns the row and the secret, which cannot be shown again."""
        secret = new_secret()
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

    def get(self, token_id: str) -> Token:
        """One token, also a revoked one. Raises NotFound."""
        with read_session(self._engine) as session:
            token = session.get(Token, token_id)
        if token is None:
            raise NotFound(f"there is no token {token_id}")
        token.last_used_at = self._uses.get(token.id, token.last_used_at)
        return token

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

    def has_local_token(self, secret: str | None = None) -> bool:
        """Whether there is a valid local token; with `secret`, whether it is that one."""
        with read_session(self._engine) as session:
            token = session.get(Token, LOCAL_TOKEN_ID)
        return token is not None and self._is_valid(token) and (secret is None or token.sha256 == hash_of(secret))

    def set_local_token(self, secret: str) -> None:
        """Make this the local token, with owner `local` and scope `admin`. Ends the sessions of the one before."""
        token = Token(
            id=LOCAL_TOKEN_ID,
            owner=LOCAL_OWNER,
            name="local token",
            begins=secret[:SHOWN_CHARACTERS],
            sha256=hash_of(secret),
            scopes=[Scope.ADMIN.value],
            created_at=self._clock(),
        )
        with write_session(self._engine) as session:
            session.execute(sa.delete(BrowserSession).where(col(BrowserSession.token_id) == LOCAL_TOKEN_ID))
            session.merge(token)
            record_as(replace(LOCAL_ADMINISTRATOR, address=""), session, "token.created", token.id, owner=token.owner)

    def authenticate(self, secret: str) -> Principal | None:
        """The principal of a token; None for an invalid one."""
        digest = hash_of(secret)
        if self._bootstrap_hash is not None and secrets.compare_digest(digest, self._bootstrap_hash):
            return Principal(LOCAL_OWNER, ADMIN_SCOPES)
        with read_connection(self._engine) as connection:
            token: Any = connection.execute(_BY_DIGEST, {"digest": digest}).first()
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

    def _is_valid(self, token: Token | sa.Row[Any]) -> bool:
        return token.revoked_at is None and bool(token.expires_at is None or token.expires_at > self._clock())

    def _record_use(self, token: Token | sa.Row[Any]) -> Principal:
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
        if principal is None or not principal.has_scope(Scope.READ):  # a worker's token has nothing to see
            return None
        with write_session(self._engine) as session:
            return self._add_session(session, replace(principal, address=address, request_id=request_id))

    def create_code(self, principal: Principal) -> tuple[str, datetime]:
        """A sign-in code for a session with the rights of this caller, and its expiry."""
        code, now = secrets.token_urlsafe(32), self._clock()
        expires_at = now + CODE_LIFETIME
        with write_session(self._engine) as session:
            self._add(session, self._row(_CODE + hash_of(code), principal, expires_at))
        return code, expires_at

    def open_session_with_code(
        self, code: str, *, address: str = "", request_id: str = ""
    ) -> tuple[str, datetime] | None:
        """Open a session with a code, which is used up; None for a used, old or unknown one, or a revoked token."""
        with write_session(self._engine) as session:
            row = session.get(BrowserSession, _CODE + hash_of(code), with_for_update=True)
            principal = None if row is None else self._principal_of(row, session)
            if row is None or principal is None:
                return None
            session.delete(row)
            return self._add_session(session, replace(principal, address=address, request_id=request_id))

    def _add_session(self, session: Session, principal: Principal) -> tuple[str, datetime]:
        session_id = secrets.token_urlsafe(32)
        expires_at = self._clock() + timedelta(hours=self._session_hours)
        self._add(session, self._row(hash_of(session_id), principal, expires_at))
        record_as(principal, session, "session.opened", principal.token_id or _BOOTSTRAP_TOKEN)
        return session_id, expires_at

    @staticmethod
    def _add(session: Session, row: BrowserSession) -> None:
        """Add a session or a code; the oldest ones of its kind and token end above `MAX_SESSIONS`."""
        is_code = col(BrowserSession.sha256).startswith(_CODE)
        is_alike = (is_code if row.sha256.startswith(_CODE) else ~is_code) & (
            col(BrowserSession.token_id).is_not_distinct_from(row.token_id)
        )
        newest = sa.select(col(BrowserSession.sha256)).where(is_alike)
        kept = newest.order_by(col(BrowserSession.created_at).desc()).limit(MAX_SESSIONS - 1)
        session.execute(sa.delete(BrowserSession).where(is_alike, col(BrowserSession.sha256).not_in(kept)))
        session.add(row)

    def _row(self, key: str, principal: Principal, expires_at: datetime) -> BrowserSession:
        return BrowserSession(
            sha256=key,
            token_id=principal.token_id,
            first_token_hash=self._bootstrap_hash if principal.token_id is None else None,
            created_at=self._clock(),
            expires_at=expires_at,
        )

    def close_session(self, session_id: str) -> None:
        """End a session; a no-op for an unknown one."""
        with write_session(self._engine) as session:
            session.execute(sa.delete(BrowserSession).where(col(BrowserSession.sha256) == hash_of(session_id)))

    def authenticate_session(self, session_id: str) -> Principal | None:
        """The principal of a session; None once it, or its token, is no longer valid."""
        with read_session(self._engine) as session:
            row = session.get(BrowserSession, hash_of(session_id))
            return None if row is None else self._principal_of(row, session)

    def _principal_of(self, row: BrowserSession, session: Session) -> Principal | None:
        """The principal of a session or a code; None once it, or its token, is no longer valid."""
        if row.expires_at <= self._clock():
            return None
        if row.token_id is None:
            is_same = row.first_token_hash is not None and row.first_token_hash == self._bootstrap_hash
            return Principal(LOCAL_OWNER, ADMIN_SCOPES) if is_same else None
        token = session.get(Token, row.token_id)
        return None if token is None or not self._is_valid(token) else self._record_use(token)
