"""Schemas of webhooks and their messages."""

from base64 import b64decode
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from rvc_train.schemas.base import RequestModel, ResponseModel


class DeliveryStatus(StrEnum):
    """Status of a message to a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


WebhookEvent = Literal[
    "job.started", "job.paused", "job.retrying", "job.worker_lost", "job.succeeded", "job.failed", "job.cancelled"
]


LAST_EVENTS: tuple[WebhookEvent, ...] = ("job.succeeded", "job.failed", "job.cancelled")


WebhookUrl = Annotated[str, Field(min_length=8, max_length=2000, pattern="^https?://")]


_FOUR = "[A-Za-z0-9+/]{4}"
_SECRET_PATTERN = f"^whsec_({_FOUR}){{8,20}}({_FOUR}|[A-Za-z0-9+/]{{3}}=|({_FOUR})?[A-Za-z0-9+/]{{2}}==)?$"


def _check_secret(secret: str) -> str:
    if not secret.startswith("whsec_"):
        raise ValueError("the secret does not begin with whsec_")
    try:
        key = b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError as error:
        raise ValueError(f"the secret is not base64 ({error})") from error
    if not 24 <= len(key) <= 64:
        raise ValueError(f"the secret has {len(key)} bytes; use 24 to 64")
    return secret


WebhookSecret = Annotated[
    str, Field(max_length=100, json_schema_extra={"pattern": _SECRET_PATTERN}), AfterValidator(_check_secret)
]


class WebhookCreate(RequestModel):
    """Request to create a webhook: an HTTP POST for each event, signed according to Standard Webhooks."""

    url: WebhookUrl
    """Address for the messages; on the public internet, unless the server's administrator allows others."""
    events: list[WebhookEvent] = Field(default=list(LAST_EVENTS), min_length=1, max_length=7)
    """Events to send."""
    secret: WebhookSecret | None = None
    """`whsec_` and 24 to 64 bytes in base64. Null: the server makes one.

    Only the answer to `POST /v1/webhooks` shows it. For a webhook of one job, give one here, or replace it later with
    `POST /v1/webhooks/{id}/rotate-secret`.
    """


class SecretRotation(RequestModel):
    """Request to replace the secret of a webhook."""

    secret: WebhookSecret | None = None
    """`whsec_` and 24 to 64 bytes in base64. Null: the server makes one."""


class WebhookPatch(RequestModel):
    """Changes of a webhook; omitted fields stay."""

    url: WebhookUrl = ""
    events: list[WebhookEvent] = Field(default=list(LAST_EVENTS), min_length=1, max_length=7)
    is_enabled: bool = True


class WebhookPublic(ResponseModel):
    """Webhook."""

    id: str
    job_id: str | None
    """Id of the only job that it is for; null: all of the owner's jobs."""
    url: str
    events: list[str]
    is_enabled: bool
    disabled_reason: str | None
    """Why the server disabled it; null for one that its owner disabled."""
    disabled_at: datetime | None
    failing_since: datetime | None
    """Time of the first failed attempt since the last accepted message; after three days it is disabled."""
    created_at: datetime


class WebhookSecretPublic(WebhookPublic):
    """Webhook with its new secret, which no other request shows."""

    secret: str
    """Key that signs the messages. Store it now."""


class MessageError(ResponseModel):
    """Error of the failed job."""

    code: str
    message: str | None


class JobMessageData(ResponseModel):
    """The job at the time of the event."""

    id: str
    name: str
    status: str
    dataset_id: str
    labels: dict[str, str]
    progress: float
    """Progress over all stages, 0..1."""
    error: MessageError | None
    url: str
    """Address of the job: `GET` shows it as it is now."""


class JobMessage(ResponseModel):
    """Body of a webhook's message about an event of a job."""

    type: WebhookEvent
    timestamp: datetime
    """Time of the event."""
    data: JobMessageData


class PingMessage(ResponseModel):
    """Body of a webhook's test message."""

    type: Literal["ping"] = "ping"
    timestamp: datetime
    data: dict[str, Any] = {}
    """Empty."""


class DeliveryPublic(ResponseModel):
    """Message to a webhook, and its delivery."""

    id: str
    """Sent as `webhook-id`; the same for a message that arrives twice."""
    webhook_id: str
    job_id: str | None
    event: str
    status: DeliveryStatus
    num_tries: int
    next_try_at: datetime | None
    """Null unless it is pending."""
    last_status: int | None
    """HTTP status of the last answer."""
    last_error: str | None
    last_tried_at: datetime | None
    created_at: datetime
    body: str
