"""Wire shapes of tokens, owners, quotas and the audit trail."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from rvc_train.schemas.base import RequestModel, ResponseModel


class Scope(StrEnum):
    """What a token allows."""

    READ = "read"
    """Look at one's own things."""
    SUBMIT = "submit"
    """Upload, submit, cancel, delete; and read."""
    ADMIN = "admin"
    """Everything, of everyone."""


OwnerName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]


class TokenCreate(RequestModel):
    """A token to be made."""

    owner: OwnerName
    """Whose things it opens: small letters, digits, dots and dashes. A new name is a new owner."""
    name: str = Field(default="", max_length=100)
    """What it is for, to know it again."""
    scopes: list[Annotated[Scope, Field(strict=False)]] = Field(default=[Scope.SUBMIT], min_length=1, max_length=3)
    """What it allows; submit implies read, admin everything of everyone."""
    expires_in_days: float | None = Field(default=None, gt=0, le=36_500)
    """None: it is good until it is revoked."""


class TokenPublic(ResponseModel):
    """A token, without its secret."""

    id: str
    owner: str
    name: str
    begins: str
    """Its first letters."""
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class TokenMade(TokenPublic):
    """A new token. Its secret is told this once."""

    secret: str


class Quota(RequestModel):
    """How much an owner may have. None: no limit."""

    max_jobs: int | None = Field(default=None, ge=0, le=1_000_000)
    """Jobs that are not at their end."""
    max_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """Of uploads, datasets, artifacts and workspaces."""
    max_gpu_hours: float | None = Field(default=None, ge=0, le=1_000_000)
    """Time of workers on the owner's jobs in a calendar month (UTC)."""


class Usage(ResponseModel):
    """How much an owner has."""

    jobs: int
    bytes: int
    gpu_hours_this_month: float


class OwnerPublic(ResponseModel):
    """An owner's quota and use."""

    owner: str
    quota: Quota
    usage: Usage


class OwnerList(ResponseModel):
    """All owners."""

    data: list[OwnerPublic]


class Me(OwnerPublic):
    """Who the caller is to this server."""

    scopes: list[Scope]
    token_id: str | None


class SessionCreate(RequestModel):
    """A browser's sign-in."""

    token: str = Field(min_length=1, max_length=500)


class AuditPublic(ResponseModel):
    """Something that someone did."""

    number: int
    created_at: datetime
    actor: str
    """The owner who did it; empty for someone with a token that opens nothing."""
    token_id: str | None
    address: str
    request_id: str
    action: str
    target: str
    detail: dict[str, Any]
