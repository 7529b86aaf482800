"""Tokens, owners and the audit trail, as methods; most of them are for administrators."""

from collections.abc import Iterator

from client.calls import Calls
from server import access_schemas


class Access:
    """Who may do what."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def me(self) -> access_schemas.Me:
        """Who the caller is: owner, scopes, quota, use."""
        return self._calls.get("/v1/me", access_schemas.Me)

    def create_token(self, wish: access_schemas.TokenCreate) -> access_schemas.TokenMade:
        """Make a token; its secret is told this once."""
        body = wish.model_dump(mode="json", exclude_none=True)
        return self._calls.call("POST", "/v1/tokens", access_schemas.TokenMade, json=body)

    def tokens(self) -> Iterator[access_schemas.TokenPublic]:
        """Everyone's tokens, newest first, revoked ones too."""
        return self._calls.pages("/v1/tokens", access_schemas.TokenPublic, {"limit": 100})

    def revoke_token(self, token_id: str) -> None:
        """Let a token open nothing any more."""
        self._calls.send("DELETE", f"/v1/tokens/{token_id}")

    def owners(self) -> list[access_schemas.OwnerPublic]:
        """Every owner with quota and use."""
        return self._calls.get("/v1/owners", access_schemas.OwnerList).data

    def set_quota(self, owner: str, quota: access_schemas.Quota) -> access_schemas.OwnerPublic:
        """Give an owner a quota of their own."""
        path = f"/v1/owners/{owner}/quota"
        return self._calls.call("PUT", path, access_schemas.OwnerPublic, json=quota.model_dump(mode="json"))

    def delete_quota(self, owner: str) -> access_schemas.OwnerPublic:
        """Let the server's quota hold for an owner again."""
        return self._calls.call("DELETE", f"/v1/owners/{owner}/quota", access_schemas.OwnerPublic)

    def audit(
        self, *, actor: str | None = None, action: str | None = None, target: str | None = None
    ) -> Iterator[access_schemas.AuditPublic]:
        """Who did what, newest first."""
        wanted = {"actor": actor, "action": action, "target": target}
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._calls.pages("/v1/audit", access_schemas.AuditPublic, {"limit": 100} | params)
