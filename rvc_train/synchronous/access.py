# Generated from rvc_train/asynchronous/access.py by `make synchronous`: edit that file.
"""Requests for tokens, owners and the audit trail; most of them are for administrators."""

from collections.abc import Iterator

from rvc_train.schemas import access
from rvc_train.synchronous.transport import Transport


class Access:
    """Access rights, quotas and the audit trail."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def me(self) -> access.Me:
        """The caller's owner name, scopes, quota and usage."""
        return self._transport.get("/v1/me", access.Me)

    def create_token(self, request: access.TokenCreate) -> access.TokenMade:
        """Create a token; its secret is returned only once."""
        body = request.model_dump(mode="json", exclude_unset=True)
        return self._transport.call("POST", "/v1/tokens", access.TokenMade, json=body)

    def tokens(self) -> Iterator[access.TokenPublic]:
        """Tokens of all owners, newest first, including revoked ones."""
        return self._transport.pages("/v1/tokens", access.TokenPublic, {"limit": 100})

    def sign_in_code(self) -> access.SignInCode:
        """Make a code that signs a browser in as the caller, within ten minutes and once."""
        return self._transport.call("POST", "/v1/session/code", access.SignInCode)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token."""
        self._transport.send("DELETE", f"/v1/tokens/{token_id}")

    def owners(self) -> list[access.OwnerPublic]:
        """Owners with quota and usage."""
        return self._transport.all("/v1/owners", access.OwnerPublic)

    def set_quota(self, owner: str, quota: access.Quota) -> access.OwnerPublic:
        """Set an owner's quota."""
        path = f"/v1/owners/{owner}/quota"
        return self._transport.call(
            "PUT", path, access.OwnerPublic, json=quota.model_dump(mode="json", exclude_unset=True)
        )

    def delete_quota(self, owner: str) -> access.OwnerPublic:
        """Return an owner to the server's default quota."""
        return self._transport.call("DELETE", f"/v1/owners/{owner}/quota", access.OwnerPublic)

    def audit(
        self, *, actor: str | None = None, action: str | None = None, target: str | None = None
    ) -> Iterator[access.AuditPublic]:
        """Entries of the audit trail, newest first."""
        filters = {"actor": actor, "action": action, "target": target}
        params = {name: value for name, value in filters.items() if value is not None}
        return self._transport.pages("/v1/audit", access.AuditPublic, {"limit": 100} | params)
