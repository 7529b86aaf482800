"""What the server's keeper looks at and decides over HTTP: published weights, and what is kept how long."""

from client.calls import Calls
from server import keeping_schemas


class PublishedWeights:
    """Weights on the server's machine."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list(self) -> list[keeping_schemas.WeightsPublic]:
        """All that are known, and whether they are there."""
        return self._calls.get("/v1/weights", keeping_schemas.WeightsList).data

    def get(self, weights_id: str) -> keeping_schemas.WeightsPublic:
        """One id."""
        return self._calls.get(f"/v1/weights/{weights_id}", keeping_schemas.WeightsPublic)

    def fetch(self, weights_id: str) -> keeping_schemas.WeightsPublic:
        """Have an id downloaded there; `get` tells how far it is."""
        return self._calls.call("POST", f"/v1/weights/{weights_id}/fetch", keeping_schemas.WeightsPublic)


class Retention:
    """What is kept how long."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def get(self) -> keeping_schemas.RetentionPublic:
        """The policy, and what it would delete now."""
        return self._calls.get("/v1/retention", keeping_schemas.RetentionPublic)

    def set(self, policy: keeping_schemas.RetentionPolicy, *, dry_run: bool = False) -> keeping_schemas.RetentionPublic:
        """Replace the policy; with `dry_run` only tell what it would delete."""
        body, params = policy.model_dump(mode="json"), {"dry_run": str(dry_run).lower()}
        return self._calls.call("PUT", "/v1/retention", keeping_schemas.RetentionPublic, json=body, params=params)

    def run(self) -> keeping_schemas.RetentionPlan:
        """Carry the policy out now; what was deleted."""
        return self._calls.call("POST", "/v1/retention/run", keeping_schemas.RetentionPlan)
