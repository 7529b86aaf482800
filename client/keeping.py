"""What the server's keeper looks at and decides over HTTP: published weights, and what is kept how long."""

from client.calls import Calls
from server import schemas


class PublishedWeights:
    """Weights on the server's machine."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def list(self) -> list[schemas.WeightsPublic]:
        """All that are known, and whether they are there."""
        return self._calls.get("/v1/weights", schemas.WeightsList).data

    def get(self, weights_id: str) -> schemas.WeightsPublic:
        """One id."""
        return self._calls.get(f"/v1/weights/{weights_id}", schemas.WeightsPublic)

    def fetch(self, weights_id: str) -> schemas.WeightsPublic:
        """Have an id downloaded there; `get` tells how far it is."""
        return self._calls.call("POST", f"/v1/weights/{weights_id}/fetch", schemas.WeightsPublic)


class Retention:
    """What is kept how long."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def get(self) -> schemas.RetentionPublic:
        """The policy, and what it would delete now."""
        return self._calls.get("/v1/retention", schemas.RetentionPublic)

    def set(self, policy: schemas.RetentionPolicy, *, dry_run: bool = False) -> schemas.RetentionPublic:
        """Replace the policy; with `dry_run` only tell what it would delete."""
        body, params = policy.model_dump(mode="json"), {"dry_run": str(dry_run).lower()}
        return self._calls.call("PUT", "/v1/retention", schemas.RetentionPublic, json=body, params=params)

    def run(self) -> schemas.RetentionPlan:
        """Carry the policy out now; what was deleted."""
        return self._calls.call("POST", "/v1/retention/run", schemas.RetentionPlan)
