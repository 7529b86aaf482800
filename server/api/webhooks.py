"""Routes of webhooks: create, list, change, test, delete; and the log of their messages."""

from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Header, Path, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.webhooks import (
    DeliveryPublic,
    DeliveryStatus,
    JobMessage,
    PingMessage,
    SecretRotation,
    WebhookCreate,
    WebhookEvent,
    WebhookPatch,
    WebhookPublic,
    WebhookSecretPublic,
)
from server.api.authorization import OwnerFilter, require_principal, requires
from server.context import AppContext, Context
from server.database.tables import Delivery, Webhook
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.threads import to_write
from server.webhooks.egress import check_url, resolve

router = RouterUnderV1(prefix="/webhooks", tags=["webhooks"])

_CURSORS: Cursors[str] = Cursors("webhooks", str)
_DELIVERY_CURSORS: Cursors[str] = Cursors("deliveries", str)

messages = APIRouter(tags=["webhooks"])
"""The messages to webhooks, for the OpenAPI document."""

MessageId = Annotated[str, Header(alias="webhook-id", description="Id of the message; a repeated one has the same.")]
MessageTime = Annotated[str, Header(alias="webhook-timestamp", description="Unix time of this attempt, in seconds.")]
MessageSignature = Annotated[
    str, Header(alias="webhook-signature", description="`v1,` and a signature; several are separated by spaces.")
]


def _job_message(body: JobMessage, an_id: MessageId, timestamp: MessageTime, signature: MessageSignature) -> None:
    """Message about an event of a job, signed as in Standard Webhooks."""


for _event in get_args(WebhookEvent):
    messages.post(_event, operation_id=f"on_{_event.replace('.', '_')}", summary=_event)(_job_message)


@messages.post("ping", operation_id="on_ping")
def _ping_message(body: PingMessage, an_id: MessageId, timestamp: MessageTime, signature: MessageSignature) -> None:
    """Message sent by `POST /v1/webhooks/{id}/test`."""


WebhookId = Annotated[str, Path(max_length=64)]


async def check_address(context: AppContext, url: str) -> None:
    """Raise Refused, before anything is written, for an address that the server does not call."""
    await resolve(check_url(url), 0, context.settings.outbound_networks)


def _public(webhook: Webhook) -> WebhookPublic:
    return WebhookPublic.model_validate(webhook, from_attributes=True)


def _delivery_public(delivery: Delivery) -> DeliveryPublic:
    fields = delivery.model_dump()
    if delivery.status != DeliveryStatus.PENDING:
        fields["next_try_at"] = None
    return DeliveryPublic.model_validate(fields)


@router.post("", operation_id="webhooks_create", status_code=201, responses=documented(422, 429))
@requires(Scope.SUBMIT)
async def create_webhook(request: WebhookCreate, response: Response, context: Context) -> WebhookSecretPublic:
    """Create a webhook for all your jobs. Only this answer shows its `secret`, which signs as in Standard Webhooks."""
    await check_address(context, request.url)
    webhook = await to_write(context.webhooks.create, require_principal().owner, request)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return WebhookSecretPublic.model_validate(webhook, from_attributes=True)


@router.get("", operation_id="webhooks_list", responses=documented(422))
@requires(Scope.READ)
def list_webhooks(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: Limit = 20,
) -> Page[WebhookPublic]:
    """List your webhooks, including those of single jobs, newest first."""
    webhooks, has_more = context.webhooks.list(owner_filter, after=after, limit=limit)
    data = [_public(each) for each in webhooks]
    return _CURSORS.page(request, response, data, data[-1].id if has_more else None)


@router.get("/{webhook_id}", operation_id="webhooks_get", responses=documented(404))
@requires(Scope.READ)
def get_webhook(webhook_id: WebhookId, context: Context) -> WebhookPublic:
    """Get one webhook."""
    return _public(context.webhooks.get(None, webhook_id))


@router.patch("/{webhook_id}", operation_id="webhooks_update", responses=documented(404))
@requires(Scope.SUBMIT)
async def change_webhook(webhook_id: WebhookId, patch: WebhookPatch, context: Context) -> WebhookPublic:
    """Change the address or the events of a webhook; disable or enable it."""
    if "url" in patch.model_fields_set:
        await check_address(context, patch.url)
    return _public(await to_write(context.webhooks.change, None, webhook_id, patch))


@router.delete("/{webhook_id}", operation_id="webhooks_delete", status_code=204, responses=documented(404))
@requires(Scope.SUBMIT)
def delete_webhook(webhook_id: WebhookId, context: Context) -> None:
    """Delete a webhook and the log of its messages."""
    context.webhooks.delete(None, webhook_id)


@router.post("/{webhook_id}/rotate-secret", operation_id="webhooks_rotate_secret", responses=documented(404, 422))
@requires(Scope.SUBMIT)
def rotate_secret(
    webhook_id: WebhookId, context: Context, rotation: SecretRotation | None = None
) -> WebhookSecretPublic:
    """Replace the secret, shown here once. For 24 hours messages are signed with both, the old and the new one."""
    webhook = context.webhooks.rotate_secret(None, webhook_id, None if rotation is None else rotation.secret)
    return WebhookSecretPublic.model_validate(webhook, from_attributes=True)


@router.post("/{webhook_id}/test", operation_id="webhooks_test", status_code=202, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def test_webhook(webhook_id: WebhookId, context: Context) -> DeliveryPublic:
    """Send a message of type `ping`; the log of messages shows the result."""
    return _delivery_public(context.webhooks.ping(None, webhook_id))


@router.get("/{webhook_id}/deliveries", operation_id="webhooks_list_deliveries", responses=documented(404, 422))
@requires(Scope.READ)
def list_deliveries(
    webhook_id: WebhookId,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_DELIVERY_CURSORS)],
    limit: Limit = 20,
) -> Page[DeliveryPublic]:
    """List messages, newest first, with their attempts and answers."""
    found, has_more = context.webhooks.deliveries(None, webhook_id, after=after, limit=limit)
    data = [_delivery_public(each) for each in found]
    return _DELIVERY_CURSORS.page(request, response, data, data[-1].id if has_more else None)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    operation_id="webhooks_redeliver",
    status_code=202,
    responses=documented(404, 409),
)
@requires(Scope.SUBMIT)
def redeliver(webhook_id: WebhookId, delivery_id: WebhookId, context: Context) -> DeliveryPublic:
    """Send a message again."""
    return _delivery_public(context.webhooks.redeliver(None, webhook_id, delivery_id))
