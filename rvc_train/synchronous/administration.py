# Generated from rvc_train/asynchronous/administration.py by `make synchronous`: edit that file.
"""Requests for administrators: published weights and the retention policy."""

from rvc_train.schemas import administration
from rvc_train.synchronous.transport import Transport


class PublishedWeights:
    """Published weights on the server's machine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[administration.WeightsPublic]:
        """All published weights, with their state."""
        return self._transport.all("/v1/weights", administration.WeightsPublic)

    def get(self, weights_id: str) -> administration.WeightsPublic:
        """One set of weights."""
        return self._transport.get(f"/v1/weights/{weights_id}", administration.WeightsPublic)

    def fetch(self, weights_id: str) -> administration.WeightsPublic:
        """Start a download on the server; `get` returns its progress."""
        return self._transport.call("POST", f"/v1/weights/{weights_id}/fetch", administration.WeightsPublic)


class Retention:
    """Retention policy of the server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> administration.RetentionPublic:
        """The policy, with the items that it would delete now."""
        return self._transport.get("/v1/retention", administration.RetentionPublic)

    def set(self, policy: administration.RetentionPolicy, *, dry_run: bool = False) -> administration.RetentionPublic:
        """Replace the policy; with `dry_run` only return the items that it would delete."""
        body, params = policy.model_dump(mode="json", exclude_unset=True), {"dry_run": str(dry_run).lower()}
        return self._transport.call("PUT", "/v1/retention", administration.RetentionPublic, json=body, params=params)

    def run(self) -> administration.RetentionPlan:
        """Apply the policy now; returns the deleted items."""
        return self._transport.call("POST", "/v1/retention/run", administration.RetentionPlan)
