"""What the server's administrator looks at and decides over HTTP: published weights, and what is kept how long."""

from rvc_train.http.transport import Transport
from rvc_train.schemas import administration


class PublishedWeights:
    """Weights on the server's machine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[administration.WeightsPublic]:
        """All that are known, and whether they are there."""
        return self._transport.get("/v1/weights", administration.WeightsList).data

    def get(self, weights_id: str) -> administration.WeightsPublic:
        """One id."""
        return self._transport.get(f"/v1/weights/{weights_id}", administration.WeightsPublic)

    def fetch(self, weights_id: str) -> administration.WeightsPublic:
        """Have an id downloaded there; `get` tells how far it is."""
        return self._transport.call("POST", f"/v1/weights/{weights_id}/fetch", administration.WeightsPublic)


class Retention:
    """What is kept how long."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> administration.RetentionPublic:
        """The policy, and what it would delete now."""
        return self._transport.get("/v1/retention", administration.RetentionPublic)

    def set(self, policy: administration.RetentionPolicy, *, dry_run: bool = False) -> administration.RetentionPublic:
        """Replace the policy; with `dry_run` only tell what it would delete."""
        body, params = policy.model_dump(mode="json"), {"dry_run": str(dry_run).lower()}
        return self._transport.call("PUT", "/v1/retention", administration.RetentionPublic, json=body, params=params)

    def run(self) -> administration.RetentionPlan:
        """Carry the policy out now; what was deleted."""
        return self._transport.call("POST", "/v1/retention/run", administration.RetentionPlan)
