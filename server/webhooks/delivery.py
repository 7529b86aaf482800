"""Delivery of webhook messages: signed, retried over days, with every attempt recorded."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import sqlalchemy as sa
import structlog
from anyio.to_thread import run_sync
from sqlmodel import Session, col, select

from rvc_train.schemas.webhooks import DeliveryStatus
from server.database.engine import read_session, write_session
from server.database.tables import Delivery, Webhook
from server.errors import Refused
from server.settings import Network, ServerSettings
from server.webhooks.egress import MAX_REASON, check_url, reason_of, resolve
from server.webhooks.service import signatures, signing_secrets, with_address

if TYPE_CHECKING:
    import httpx

logger = structlog.get_logger(__name__)

RETRY_SECONDS = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Waits between attempts, about three days in total; after the last one the delivery has failed."""
TIMEOUT_SECONDS = 15.0
"""For all of an attempt, from the name's look-up to the response's headers."""
MAX_IN_FLIGHT = 64
MAX_IN_FLIGHT_PER_OWNER = 16
"""One owner's slow receivers leave room for the messages of the others."""
FAILING_DAYS = 3
"""Time with nothing but failed attempts after which a webhook is disabled."""
NUM_THREADS = 2
"""Threads that read and write the database."""
_GONE = 410
_RETRY_AFTER_STATUSES = frozenset({429, 503})


@dataclass(frozen=True)
class DeliveryResult:
    """Result of one delivery attempt."""

    status: int | None
    """HTTP status; None without a response."""
    error: str | None
    """Error message; None if the message was accepted."""
    retry_after_seconds: float | None = None
    """Minimum wait before the next attempt, as requested by the receiver."""


class Deliverer:
    """Sends due messages beside each other, one at a time to each host, on the server's event loop."""

    def __init__(
        self,
        engine: sa.Engine,
        settings: ServerSettings,
        clock: Callable[[], datetime],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this server, of several on one database, is the one that sends."""
        self._leads = leads
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._in_flight: dict[str, str] = {}
        """Owner of the message that is being sent, by host and port."""
        self._threads = anyio.CapacityLimiter(NUM_THREADS)

    async def run(self) -> None:
        """Send messages until cancelled. One that is being sent then is sent again after the next start."""
        client: httpx.AsyncClient | None = None
        async with anyio.create_task_group() as senders:
            while True:
                busy = set(self._in_flight)  # a message whose attempt ends meanwhile may be read as still due
                try:
                    due = await run_sync(self._due, limiter=self._threads) if self._leads() else []
                    for delivery, webhook in due:
                        if client is None:
                            client = await run_sync(_open_client, limiter=self._threads)
                        host = _host_and_port(webhook.url)
                        if host not in busy and self._has_room(host, webhook.owner):
                            self._in_flight[host] = webhook.owner
                            senders.start_soon(self._deliver, client, host, delivery, webhook)
                except Exception:
                    logger.exception("webhook delivery failed; retrying soon")
                await anyio.sleep(self._settings.webhook_poll_seconds)

    def _has_room(self, host: str, owner: str) -> bool:
        of_owner = sum(each == owner for each in self._in_flight.values())
        return (
            host not in self._in_flight and of_owner < MAX_IN_FLIGHT_PER_OWNER and len(self._in_flight) < MAX_IN_FLIGHT
        )

    def _due(self) -> list[tuple[Delivery, Webhook]]:
        """The first due message of each webhook, in the order in which they became due."""
        # A first attempt waits for no clock: a worker, on a machine with another one, wrote the time.
        is_due = sa.or_(col(Delivery.num_tries) == 0, col(Delivery.next_try_at) <= self._clock())
        due = (
            sa.select(
                col(Delivery.id),
                sa.func.row_number()
                .over(partition_by=col(Delivery.webhook_id), order_by=(col(Delivery.next_try_at), col(Delivery.id)))
                .label("place"),
            )
            .where(col(Delivery.status) == DeliveryStatus.PENDING, is_due)
            .subquery()
        )
        with read_session(self._engine) as session:
            query = (
                select(Delivery, Webhook)
                .join(due, due.c.id == Delivery.id)
                .where(due.c.place == 1, Delivery.webhook_id == Webhook.id, col(Webhook.is_enabled))
                .order_by(col(Delivery.next_try_at))
            )
            return [(delivery, webhook) for delivery, webhook in session.exec(query).all()]

    async def _deliver(self, client: "httpx.AsyncClient", host: str, delivery: Delivery, webhook: Webhook) -> None:
        try:
            try:
                with anyio.fail_after(TIMEOUT_SECONDS):
                    keys = signing_secrets(webhook, self._clock())
                    body = with_address(delivery.body, self._settings.public_url)
                    networks = self._settings.outbound_networks
                    result = await send(client, delivery.id, body, webhook.url, keys, networks)
            except TimeoutError:
                result = DeliveryResult(None, f"no response in {TIMEOUT_SECONDS:.0f} s")
            except Refused as error:
                result = DeliveryResult(None, str(error))
            except Exception:  # an attempt that is not recorded would be repeated at once, for ever
                logger.exception("a webhook message could not be sent", message_id=delivery.id)
                result = DeliveryResult(None, "the message could not be sent; the server's log has the reason")
            await run_sync(self._record, delivery, webhook, result, limiter=self._threads)
        except Exception:
            logger.exception("the result of a webhook message was lost; it is sent again")
        finally:
            del self._in_flight[host]

    def _record(self, delivery: Delivery, webhook: Webhook, result: DeliveryResult) -> None:
        now = self._clock()
        tries = delivery.num_tries + 1
        columns: dict[str, object] = {
            "num_tries": tries,
            "last_status": result.status,
            "last_error": result.error,
            "last_tried_at": now,
        }
        if result.error is None:
            columns |= {"status": DeliveryStatus.DELIVERED}
        elif tries > len(RETRY_SECONDS) or result.status == _GONE:
            columns |= {"status": DeliveryStatus.FAILED}
        else:
            wait = max(RETRY_SECONDS[tries - 1] * random.uniform(0.9, 1.1), result.retry_after_seconds or 0.0)
            columns |= {"next_try_at": now + timedelta(seconds=wait)}
        # A message that was sent again, or by another server, since it was read has a result of its own.
        unchanged = (
            col(Delivery.id) == delivery.id,
            col(Delivery.status) == DeliveryStatus.PENDING,
            col(Delivery.num_tries) == delivery.num_tries,
        )
        with write_session(self._engine) as session:
            row = session.get(Webhook, webhook.id, with_for_update=True)
            if row is None:
                return
            updated = session.connection().execute(sa.update(Delivery).where(*unchanged).values(**columns))
            if updated.rowcount == 0:
                return
            _record_health(session, row, result, now)
        logger.info(
            "webhook",
            webhook_id=webhook.id,
            message_id=delivery.id,
            status=result.status,
            error=result.error,
            tries=tries,
        )

    def delete_old(self) -> None:
        """Delete finished messages older than `webhook_log_days`."""
        oldest = self._clock() - timedelta(days=self._settings.webhook_log_days)
        with write_session(self._engine) as session:
            is_old = (col(Delivery.created_at) < oldest, col(Delivery.status) != DeliveryStatus.PENDING)
            session.execute(sa.delete(Delivery).where(*is_old))


def _host_and_port(url: str) -> str:
    """The receiver that a URL names, however its host is written."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _record_health(session: Session, webhook: Webhook, result: DeliveryResult, now: datetime) -> None:
    """Record since when the webhook fails; disable one that is gone, or has failed for days."""
    webhook.failing_since = None if result.error is None else webhook.failing_since or now
    if result.status == _GONE:
        _disable(session, webhook, now, "its URL returned 410 Gone")
    elif webhook.failing_since is not None and now - webhook.failing_since >= timedelta(days=FAILING_DAYS):
        _disable(
            session, webhook, now, f"its URL accepted no message for {FAILING_DAYS} days; enable it when it answers"
        )


def _disable(session: Session, webhook: Webhook, now: datetime, reason: str) -> None:
    """Disable a webhook; its pending messages have failed."""
    webhook.is_enabled, webhook.disabled_reason, webhook.disabled_at = False, reason, now
    pending = sa.and_(col(Delivery.webhook_id) == webhook.id, col(Delivery.status) == DeliveryStatus.PENDING)
    session.execute(sa.update(Delivery).where(pending).values(status=DeliveryStatus.FAILED))


def _open_client() -> "httpx.AsyncClient":
    """A client that keeps no connection: one to an address may not be used for another host's certificate."""
    import httpx  # loaded only by servers with webhooks, and beside the event loop

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False, limits=limits)


async def send(
    client: "httpx.AsyncClient",
    message_id: str,
    body: str,
    target: str,
    keys: Sequence[str],
    networks: Sequence[Network],
) -> DeliveryResult:
    """One delivery attempt. The response body is not read, redirects are not followed. Raises Refused for the URL."""
    import httpx

    check_url(target)
    try:
        url = httpx.URL(target)
    except httpx.InvalidURL as error:
        raise Refused(f"{target!r} is not a URL ({error})", "/url") from error
    port = url.port or (443 if url.scheme == "https" else 80)
    address = await resolve(url.host, port, networks)
    timestamp = int(time.time())
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        "User-Agent": "rvc-train",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures(keys, message_id, timestamp, body),
    }
    try:
        async with client.stream(
            "POST",
            url.copy_with(host=address),
            content=body.encode(),
            headers=headers,
            extensions={"sni_hostname": url.host},  # the certificate is checked against the host name
        ) as response:
            if response.is_success:
                return DeliveryResult(response.status_code, None)
            failure = f"returned {response.status_code} {response.reason_phrase}"[:MAX_REASON]
            return DeliveryResult(response.status_code, failure, _retry_after(response.status_code, response.headers))
    except httpx.HTTPError as error:
        return DeliveryResult(None, f"no response ({reason_of(error)})")


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    if status not in _RETRY_AFTER_STATUSES:
        return None
    text = headers.get("retry-after", "")
    return min(float(text), RETRY_SECONDS[-1]) if text.isdecimal() else None
