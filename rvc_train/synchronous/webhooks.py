# Generated from rvc_train/asynchronous/webhooks.py by `make synchronous`: edit that file.
"""Requests for webhooks."""

from collections.abc import Iterator, Sequence
from typing import Any

from rvc_train.schemas import webhooks
from rvc_train.synchronous.transport import Transport


class Webhooks:
    """Webhooks of the caller."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: webhooks.WebhookCreate) -> webhooks.WebhookSecretPublic:
        """Create a webhook for all jobs of the caller; its secret is shown only here."""
        body = request.model_dump(mode="json", exclude_unset=True)
        return self._transport.call("POST", "/v1/webhooks", webhooks.WebhookSecretPublic, json=body)

    def list(self) -> Iterator[webhooks.WebhookPublic]:
        """Webhooks of the caller, newest first."""
        return self._transport.pages("/v1/webhooks", webhooks.WebhookPublic, {"limit": 100})

    def get(self, webhook_id: str) -> webhooks.WebhookPublic:
        """One webhook."""
        return self._transport.get(f"/v1/webhooks/{webhook_id}", webhooks.WebhookPublic)

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        is_enabled: bool | None = None,
    ) -> webhooks.WebhookPublic:
        """Change the given fields of a webhook."""
        changes: dict[str, Any] = {"url": url, "events": events, "is_enabled": is_enabled}
        body = {name: value for name, value in changes.items() if value is not None}
        return self._transport.call("PATCH", f"/v1/webhooks/{webhook_id}", webhooks.WebhookPublic, json=body)

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook."""
        self._transport.send("DELETE", f"/v1/webhooks/{webhook_id}")

    def rotate_secret(self, webhook_id: str, secret: str | None = None) -> str:
        """Replace its secret, None: by one that the server makes; returns it. The old one signs for a day too."""
        path = f"/v1/webhooks/{webhook_id}/rotate-secret"
        body = {} if secret is None else {"secret": secret}
        changed = self._transport.call("POST", path, webhooks.WebhookSecretPublic, json=body)
        return changed.secret

    def test(self, webhook_id: str) -> webhooks.DeliveryPublic:
        """Send a `ping` message."""
        return self._transport.call("POST", f"/v1/webhooks/{webhook_id}/test", webhooks.DeliveryPublic)

    def deliveries(self, webhook_id: str) -> Iterator[webhooks.DeliveryPublic]:
        """Its messages, newest first."""
        return self._transport.pages(f"/v1/webhooks/{webhook_id}/deliveries", webhooks.DeliveryPublic, {"limit": 100})

    def redeliver(self, webhook_id: str, delivery_id: str) -> webhooks.DeliveryPublic:
        """Send a message again."""
        path = f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"
        return self._transport.call("POST", path, webhooks.DeliveryPublic)
