"""Webhooks: subscriptions to job events, and their messages, signed as in Standard Webhooks (standardwebhooks.com).

A message is inserted in the transaction of its event, so none is lost and none is sent for an event that was rolled
back. `server.webhooks.delivery` sends them. A message may arrive twice, with the same id.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.events import EventType
from rvc_train.schemas.webhooks import (
    DeliveryStatus,
    JobMessage,
    JobMessageData,
    MessageError,
    PingMessage,
    WebhookCreate,
    WebhookPatch,
)
from server.auth.audit import record
from server.database.engine import advisory_lock, read_session, write_session
from server.database.tables import Delivery, Job, Webhook, new_id
from server.errors import Conflict, NotFound, QuotaExceeded

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of a secret
MAX_WEBHOOKS = 100
"""Webhooks of one owner for all jobs: each event of a job inserts a message for each of them, in one transaction."""
MAX_PENDING_PINGS = 10
"""Test messages of one webhook that wait for their delivery."""
OLD_SECRET_HOURS = 24
"""Time after a rotation during which the replaced secret still signs."""
MAX_OLD_SECRETS = 5
"""Replaced secrets that still sign; one more rotation drops the oldest."""


def new_secret() -> str:
    """A signing secret: 32 random bytes in base64, with the standard's prefix."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signatures(keys: Sequence[str], message_id: str, timestamp: int, body: str) -> str:
    """The header `webhook-signature` of a message: one signature for each of the secrets `keys`."""
    content = f"{message_id}.{timestamp}.{body}".encode()
    decoded = [base64.b64decode(key.removeprefix(SECRET_PREFIX)) for key in keys]
    digests = [hmac.digest(key, content, hashlib.sha256) for key in decoded]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def signing_secrets(webhook: Webhook, now: datetime) -> list[str]:
    """Secrets that sign now: the present one, then the replaced ones, for `OLD_SECRET_HOURS` after their rotation."""
    return [webhook.secret, *(each["secret"] for each in _unexpired(webhook, now))]


def _unexpired(webhook: Webhook, now: datetime) -> list[dict[str, str]]:
    return [each for each in webhook.old_secrets if datetime.fromisoformat(each["until"]) > now]


def enqueue_deliveries(session: Session, job: Job, kind: EventType, now: datetime) -> None:
    """Enqueue a message for each webhook subscribed to this event, in the caller's transaction.

    The webhooks are locked: one that is disabled meanwhile would keep the message pending.
    """
    if kind not in DELIVERED_EVENTS:
        return
    query = select(Webhook).where(
        col(Webhook.is_enabled),
        sa.or_(col(Webhook.job_id) == job.id, sa.and_(col(Webhook.job_id).is_(None), col(Webhook.owner) == job.owner)),
    )
    name = f"job.{kind}"
    for webhook in session.exec(query.order_by(col(Webhook.id)).with_for_update(read=True)).all():
        if name in webhook.events:
            session.add(_delivery(webhook, _message(name, job, now), now, job.id))


DELIVERED_EVENTS = frozenset(
    {
        EventType.STARTED,
        EventType.PAUSED,
        EventType.RETRYING,
        EventType.WORKER_LOST,
        EventType.SUCCEEDED,
        EventType.FAILED,
        EventType.CANCELLED,
    }
)


def _message(name: str, job: Job, now: datetime) -> JobMessage:
    error = None if job.error_code is None else MessageError(code=job.error_code, message=job.error_message)
    data = JobMessageData(
        id=job.id,
        name=job.name,
        status=job.status,
        dataset_id=job.dataset_id,
        labels=job.labels,
        progress=job.progress,
        error=error,
        url=f"/v1/jobs/{job.id}",
    )
    return JobMessage.model_validate({"type": name, "timestamp": now, "data": data})


def with_address(body: str, public_url: str | None) -> str:
    """A message whose `data.url` begins with the server's address, if it is known."""
    message = json.loads(body)
    path = message["data"].get("url", "")
    if public_url is None or not path.startswith("/"):
        return body
    message["data"]["url"] = public_url.rstrip("/") + path
    return json.dumps(message, ensure_ascii=False)


def _delivery(webhook: Webhook, message: JobMessage | PingMessage, now: datetime, job_id: str | None) -> Delivery:
    return Delivery(
        id=new_id("msg"),
        webhook_id=webhook.id,
        job_id=job_id,
        event=message.type,
        body=message.model_dump_json(),
        created_at=now,
        next_try_at=now,
    )


class WebhookService:
    """Webhooks and the log of their messages."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, owner: str, request: WebhookCreate) -> Webhook:
        """Create a webhook for all jobs of the owner. Raises QuotaExceeded."""
        webhook = new_webhook(owner, request, None, self._clock())
        present = sa.select(sa.func.count()).where(col(Webhook.owner) == owner, col(Webhook.job_id).is_(None))
        with write_session(self._engine) as session:
            advisory_lock(session, f"webhooks:{owner}")  # or two transactions could both take the last place
            if session.execute(present).scalar_one() >= MAX_WEBHOOKS:
                raise QuotaExceeded(f"{owner} has {MAX_WEBHOOKS} webhooks, and may have no more; delete one")
            session.add(webhook)
            record(session, "webhook.created", webhook.id, url=webhook.url)
        return webhook

    def get(self, owner: str | None, webhook_id: str) -> Webhook:
        """One webhook of the owner (None: of any). Raises NotFound."""
        with read_session(self._engine) as session:
            return _find(session, owner, webhook_id)

    def list(self, owner: str | None, *, after: str | None, limit: int) -> tuple[Sequence[Webhook], bool]:
        """Webhooks older than `after`, newest first; and whether there are more."""
        with read_session(self._engine) as session:
            query = select(Webhook).order_by(col(Webhook.id).desc()).limit(limit + 1)
            if owner is not None:
                query = query.where(Webhook.owner == owner)
            if after is not None:
                query = query.where(col(Webhook.id) < after)
            found = session.exec(query).all()
            return found[:limit], len(found) > limit

    def change(self, owner: str | None, webhook_id: str, patch: WebhookPatch) -> Webhook:
        """Set the fields of the patch. Raises NotFound."""
        with write_session(self._engine) as session:
            webhook = _find(session, owner, webhook_id, with_for_update=True)
            record(session, "webhook.changed", webhook_id, **patch.model_dump(exclude_unset=True))
            for name, value in patch.model_dump(exclude_unset=True).items():
                setattr(webhook, name, value)
            if patch.model_fields_set & {"url", "is_enabled"}:
                webhook.failing_since = None
            if "is_enabled" in patch.model_fields_set:
                webhook.disabled_reason = None
                webhook.disabled_at = None if patch.is_enabled else self._clock()
            session.add(webhook)
            return webhook

    def rotate_secret(self, owner: str | None, webhook_id: str, secret: str | None) -> Webhook:
        """Replace the secret (None: by a new random one); the old one signs too for a day. Raises NotFound."""
        now = self._clock()
        with write_session(self._engine) as session:
            webhook = _find(session, owner, webhook_id, with_for_update=True)
            old = {"secret": webhook.secret, "until": (now + timedelta(hours=OLD_SECRET_HOURS)).isoformat()}
            webhook.old_secrets = [*_unexpired(webhook, now), old][-MAX_OLD_SECRETS:]
            webhook.secret = secret or new_secret()
            session.add(webhook)
            record(session, "webhook.secret_rotated", webhook_id)
            return webhook

    def delete(self, owner: str | None, webhook_id: str) -> None:
        """Delete a webhook and its messages. Raises NotFound."""
        with write_session(self._engine) as session:
            session.delete(_find(session, owner, webhook_id, with_for_update=True))
            record(session, "webhook.deleted", webhook_id)

    def ping(self, owner: str | None, webhook_id: str) -> Delivery:
        """Send an empty message to test the URL.

        Raises NotFound, or Conflict for a disabled webhook and while too many of them are pending.
        """
        is_pending = (col(Delivery.status) == DeliveryStatus.PENDING) & (col(Delivery.event) == "ping")
        pending = sa.select(sa.func.count()).where(col(Delivery.webhook_id) == webhook_id, is_pending)
        with write_session(self._engine) as session:
            webhook = _find_enabled(session, owner, webhook_id)
            if session.execute(pending).scalar_one() >= MAX_PENDING_PINGS:
                raise Conflict(f"{MAX_PENDING_PINGS} test messages of this webhook wait for delivery; see its messages")
            now = self._clock()
            delivery = _delivery(webhook, PingMessage(timestamp=now), now, None)
            session.add(delivery)
            return delivery

    def deliveries(
        self, owner: str | None, webhook_id: str, *, after: str | None, limit: int
    ) -> tuple[Sequence[Delivery], bool]:
        """A webhook's messages older than `after`, newest first; and whether there are more. Raises NotFound."""
        with read_session(self._engine) as session:
            _find(session, owner, webhook_id)
            query = select(Delivery).where(Delivery.webhook_id == webhook_id).order_by(col(Delivery.id).desc())
            if after is not None:
                query = query.where(col(Delivery.id) < after)
            found = session.exec(query.limit(limit + 1)).all()
            return found[:limit], len(found) > limit

    def redeliver(self, owner: str | None, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again, with all its attempts. Raises NotFound, or Conflict for a disabled webhook."""
        with write_session(self._engine) as session:
            _find_enabled(session, owner, webhook_id)
            delivery = session.get(Delivery, delivery_id)
            if delivery is None or delivery.webhook_id != webhook_id:
                raise NotFound(f"there is no message {delivery_id}")
            delivery.status, delivery.num_tries, delivery.next_try_at = DeliveryStatus.PENDING, 0, self._clock()
            session.add(delivery)
            return delivery


def new_webhook(owner: str, request: WebhookCreate, job_id: str | None, now: datetime) -> Webhook:
    """The row of a new webhook; `job_id`: for that job only."""
    return Webhook(
        id=new_id("whk"),
        owner=owner,
        job_id=job_id,
        url=request.url,
        secret=request.secret or new_secret(),
        events=list(request.events),
        created_at=now,
    )


def copy_webhooks(session: Session, old_job_id: str, new_job_id: str, now: datetime) -> None:
    """Give a job the webhooks of another one: same address, events and secrets, so that the receiver needs nothing."""
    for webhook in session.exec(select(Webhook).where(Webhook.job_id == old_job_id)).all():
        fields = webhook.model_dump(exclude={"failing_since"})
        session.add(Webhook.model_validate(fields | {"id": new_id("whk"), "job_id": new_job_id, "created_at": now}))


def _find_enabled(session: Session, owner: str | None, webhook_id: str) -> Webhook:
    webhook = _find(session, owner, webhook_id, with_for_update=True)
    if not webhook.is_enabled:
        raise Conflict(f"the webhook is disabled ({webhook.disabled_reason or 'by request'}); enable it first")
    return webhook


def _find(session: Session, owner: str | None, webhook_id: str, *, with_for_update: bool | None = None) -> Webhook:
    webhook = session.get(Webhook, webhook_id, with_for_update=with_for_update)
    if webhook is None or (owner is not None and webhook.owner != owner):
        raise NotFound(f"there is no webhook {webhook_id}")
    return webhook
