"""Delivery of webhook messages: signed, retried over days, with every attempt recorded."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from rvc_train.schemas.webhooks import DeliveryStatus
from server.database.engine import read_session, write_session
from server.database.tables import Delivery, Webhook
from server.errors import Refused
from server.settings import ServerSettings
from server.webhooks.egress import check_url, resolve
from server.webhooks.service import signature

logger = structlog.get_logger(__name__)

RETRY_SECONDS = (5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Waits between attempts, about three days in total; after the last one the delivery has failed."""
TIMEOUT_SECONDS = 15.0
NUM_SENDERS = 4
NUM_THREADS = 1 + NUM_SENDERS
_BATCH = 20
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
    """A thread that polls for due messages, and a few that send them."""

    def __init__(self, engine: sa.Engine, settings: ServerSettings, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="deliverer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, after the messages being sent."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        with ThreadPoolExecutor(NUM_SENDERS, "webhook") as senders:
            while not self._stopping.wait(self._settings.webhook_poll_seconds):
                try:
                    list(senders.map(self._deliver, self._due()))
                except Exception:
                    logger.exception("webhook delivery failed; retrying soon")

    def _due(self) -> list[tuple[Delivery, Webhook]]:
        with read_session(self._engine) as session:
            query = (
                select(Delivery, Webhook)
                .where(
                    Delivery.webhook_id == Webhook.id,
                    col(Webhook.is_enabled),
                    Delivery.status == DeliveryStatus.PENDING,
                    col(Delivery.next_try_at) <= self._clock(),
                )
                .order_by(col(Delivery.next_try_at))
                .limit(_BATCH)
            )
            return [(delivery, webhook) for delivery, webhook in session.exec(query).all()]

    def _deliver(self, due: tuple[Delivery, Webhook]) -> None:
        delivery, webhook = due
        try:
            result = send(delivery, webhook, self._settings.webhook_allow_private)
        except Refused as error:
            result = DeliveryResult(None, str(error))
        self._record(delivery, webhook, result)

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
        with write_session(self._engine) as session:
            session.execute(sa.update(Delivery).where(col(Delivery.id) == delivery.id).values(**columns))
            if result.status == _GONE:
                reason = "its URL returned 410 Gone"
                statement = sa.update(Webhook).where(col(Webhook.id) == webhook.id)
                session.execute(statement.values(is_enabled=False, disabled_reason=reason))
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


def send(delivery: Delivery, webhook: Webhook, allow_private: bool) -> DeliveryResult:
    """One delivery attempt. The response body is not read, redirects are not followed. Raises Refused for the URL."""
    import httpx  # loaded only by servers with webhooks

    check_url(webhook.url)
    url = httpx.URL(webhook.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    address = resolve(url.host, port, allow_private)
    timestamp = int(time.time())
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        "User-Agent": "rvc-train",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(webhook.secret, delivery.id, timestamp, delivery.body),
    }
    try:
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as http,
            http.stream(
                "POST",
                url.copy_with(host=address),
                content=delivery.body.encode(),
                headers=headers,
                extensions={"sni_hostname": url.host},  # the certificate is checked against the host name
            ) as response,
        ):
            if response.is_success:
                return DeliveryResult(response.status_code, None)
            error = f"returned {response.status_code} {response.reason_phrase}"
            return DeliveryResult(response.status_code, error, _retry_after(response.status_code, response.headers))
    except httpx.HTTPError as error:
        return DeliveryResult(None, f"no response ({error or type(error).__name__})")


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    if status not in _RETRY_AFTER_STATUSES:
        return None
    text = headers.get("retry-after", "")
    return min(float(text), RETRY_SECONDS[-1]) if text.isdecimal() else None
