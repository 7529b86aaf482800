"""Schemas of tokens, owners, quotas and the audit trail."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, computed_field, model_validator

from rvc_train.schemas.base import DEPRECATED, RequestModel, ResponseModel


class Scope(StrEnum):
    """Right of a token."""

    READ = "read"
    """Read one's own datasets and jobs."""
    SUBMIT = "submit"
    """Upload, submit, cancel, delete; and read."""
    WORK = "work"
    """Requests of a worker on another machine, and nothing else."""
    ADMIN = "admin"
    """Everything, for all owners."""


OwnerName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]


class TokenCreate(RequestModel):
    """Request to create a token."""

    owner: OwnerName
    """Owner of the token: lower-case letters, digits, dots, dashes and underscores. A new name makes a new owner."""
    name: str = Field(default="", max_length=100)
    """Purpose of the token, for lists."""
    scopes: list[Annotated[Scope, Field(strict=False)]] = Field(default=[Scope.SUBMIT], min_length=1, max_length=4)
    """Rights of the token; submit implies read, admin everything for all owners; work, for a worker, implies none."""
    expires_in_days: float | None = Field(default=None, gt=0, le=36_500)
    """Days until it expires; null: it is valid until it is revoked."""


class TokenPublic(ResponseModel):
    """Token without its secret."""

    id: str
    owner: str
    name: str
    begins: str
    """First characters of the secret."""
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class TokenMade(TokenPublic):
    """New token with its secret, which is shown only once."""

    secret: str


class Quota(RequestModel):
    """Limits of an owner; null: no limit."""

    max_jobs: int | None = Field(default=None, ge=0, le=1_000_000)
    """Unfinished jobs."""
    max_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """Bytes of uploads, datasets, artifacts and workspaces."""
    max_gpu_hours: float | None = Field(default=None, ge=0, le=1_000_000)
    """Hours of workers on the owner's jobs in a calendar month (UTC)."""


class Usage(ResponseModel):
    """Usage of an owner, in terms of the quota."""

    jobs: int
    bytes: int = Field(json_schema_extra=DEPRECATED)
    """`stored_bytes` under its old name."""
    gpu_hours_this_month: float

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def stored_bytes(self) -> int:
        """Bytes of uploads, datasets, artifacts and workspaces."""
        return self.bytes


class OwnerPublic(ResponseModel):
    """Owner with quota and usage."""

    owner: str
    quota: Quota
    usage: Usage


class Me(OwnerPublic):
    """The caller: owner, scopes, quota and usage."""

    scopes: list[Scope]
    token_id: str | None


class SessionCreate(RequestModel):
    """Sign-in of a browser, with a token or with a sign-in code."""

    token: str | None = Field(default=None, min_length=1, max_length=500)
    code: str | None = Field(default=None, min_length=1, max_length=500)
    """From `POST /v1/session/code`: it holds for ten minutes and once."""

    @model_validator(mode="after")
    def _check_choice(self) -> "SessionCreate":
        if (self.token is None) == (self.code is None):
            raise ValueError("give either token or code")
        return self


class SignInCode(ResponseModel):
    """Code that signs a browser in as the caller, once."""

    code: str
    expires_at: datetime


class AuditPublic(ResponseModel):
    """Entry of the audit trail."""

    number: int
    created_at: datetime
    actor: str
    """Owner who acted; empty for a request with an invalid token."""
    token_id: str | None
    address: str
    request_id: str
    action: str
    target: str
    detail: dict[str, Any]
