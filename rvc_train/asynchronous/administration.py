"""Requests for administrators: published weights and the retention policy."""

from rvc_train.asynchronous.transport import Transport
from rvc_train.schemas import administration


class PublishedWeights:
    """Published weights on the server's machine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> list[administration.WeightsPublic]:
        """All published weights, with their state."""
        return await self._transport.all("/v1/weights", administration.WeightsPublic)

    async def get(self, weights_id: str) -> administration.WeightsPublic:
        """One set of weights."""
        return await self._transport.get(f"/v1/weights/{weights_id}", administration.WeightsPublic)

    async def fetch(self, weights_id: str) -> administration.WeightsPublic:
        """Start a download on the server; `get` returns its progress."""
        return await self._transport.call("POST", f"/v1/weights/{weights_id}/fetch", administration.WeightsPublic)


class Retention:
    """Retention policy of the server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self) -> administration.RetentionPublic:
        """The policy, with the items that it would delete now."""
        return await self._transport.get("/v1/retention", administration.RetentionPublic)

    async def set(
        self, policy: administration.RetentionPolicy, *, dry_run: bool = False
    ) -> administration.RetentionPublic:
        """Replace the policy; with `dry_run` only return the items that it would delete."""
        body, params = policy.model_dump(mode="json", exclude_unset=True), {"dry_run": str(dry_run).lower()}
        return await self._transport.call(
            "PUT", "/v1/retention", administration.RetentionPublic, json=body, params=params
        )

    async def run(self) -> administration.RetentionPlan:
        """Apply the policy now; returns the deleted items."""
        return await self._transport.call("POST", "/v1/retention/run", administration.RetentionPlan)
