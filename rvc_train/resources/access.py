"""Tokens, owners and the audit trail, as methods; most of them are for administrators."""

from collections.abc import Iterator

from rvc_train.http.transport import Transport
from rvc_train.schemas import access


class Access:
    """Who may do what."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def me(self) -> access.Me:
        """Who the caller is: owner, scopes, quota, use."""
        return self._transport.get("/v1/me", access.Me)

    def create_token(self, request: access.TokenCreate) -> access.TokenMade:
        """Make a token; its secret is told this once."""
        body = request.model_dump(mode="json", exclude_none=True)
        return self._transport.call("POST", "/v1/tokens", access.TokenMade, json=body)

    def tokens(self) -> Iterator[access.TokenPublic]:
        """Everyone's tokens, newest first, revoked ones too."""
        return self._transport.pages("/v1/tokens", access.TokenPublic, {"limit": 100})

    def revoke_token(self, token_id: str) -> None:
        """Let a token open nothing any more."""
        self._transport.send("DELETE", f"/v1/tokens/{token_id}")

    def owners(self) -> list[access.OwnerPublic]:
        """Every owner with quota and use."""
        return self._transport.get("/v1/owners", access.OwnerList).data

    def set_quota(self, owner: str, quota: access.Quota) -> access.OwnerPublic:
        """Give an owner a quota of their own."""
        path = f"/v1/owners/{owner}/quota"
        return self._transport.call("PUT", path, access.OwnerPublic, json=quota.model_dump(mode="json"))

    def delete_quota(self, owner: str) -> access.OwnerPublic:
        """Let the server's quota hold for an owner again."""
        return self._transport.call("DELETE", f"/v1/owners/{owner}/quota", access.OwnerPublic)

    def audit(
        self, *, actor: str | None = None, action: str | None = None, target: str | None = None
    ) -> Iterator[access.AuditPublic]:
        """Who did what, newest first."""
        wanted = {"actor": actor, "action": action, "target": target}
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._transport.pages("/v1/audit", access.AuditPublic, {"limit": 100} | params)
