"""Webhooks of the server, as methods."""

from collections.abc import Iterator, Sequence
from typing import Any

from client.calls import Calls
from server import schemas


class Webhooks:
    """Who is told of jobs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, wish: schemas.WebhookCreate) -> schemas.WebhookPublic:
        """Have an address told of all your jobs."""
        body = wish.model_dump(mode="json", exclude_none=True)
        return self._calls.call("POST", "/v1/webhooks", schemas.WebhookPublic, json=body)

    def list(self) -> Iterator[schemas.WebhookPublic]:
        """All of yours, newest first."""
        return self._calls.pages("/v1/webhooks", schemas.WebhookPublic, {"limit": 100})

    def get(self, webhook_id: str) -> schemas.WebhookPublic:
        """One webhook."""
        return self._calls.get(f"/v1/webhooks/{webhook_id}", schemas.WebhookPublic)

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        is_enabled: bool | None = None,
    ) -> schemas.WebhookPublic:
        """Change what is given; the rest stays."""
        given: dict[str, Any] = {"url": url, "events": events, "is_enabled": is_enabled}
        body = {name: value for name, value in given.items() if value is not None}
        return self._calls.call("PATCH", f"/v1/webhooks/{webhook_id}", schemas.WebhookPublic, json=body)

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook."""
        self._calls.send("DELETE", f"/v1/webhooks/{webhook_id}")

    def secret(self, webhook_id: str) -> str:
        """What its messages are signed with."""
        return self._calls.get(f"/v1/webhooks/{webhook_id}/secret", schemas.WebhookSecretPublic).secret

    def test(self, webhook_id: str) -> schemas.DeliveryPublic:
        """Send a `ping`."""
        return self._calls.call("POST", f"/v1/webhooks/{webhook_id}/test", schemas.DeliveryPublic)

    def deliveries(self, webhook_id: str) -> Iterator[schemas.DeliveryPublic]:
        """Its messages, newest first."""
        return self._calls.pages(f"/v1/webhooks/{webhook_id}/deliveries", schemas.DeliveryPublic, {"limit": 100})

    def redeliver(self, webhook_id: str, delivery_id: str) -> schemas.DeliveryPublic:
        """Send a message again."""
        path = f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"
        return self._calls.call("POST", path, schemas.DeliveryPublic)
