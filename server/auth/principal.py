"""The principal of a request: an owner with scopes."""

from contextvars import ContextVar
from dataclasses import dataclass

from rvc_train.schemas.access import Scope
from server.database.tables import LOCAL_OWNER

IMPLIED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.SUBMIT: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.WORK: frozenset({Scope.WORK}),
    Scope.ADMIN: frozenset(Scope),
}
"""Scopes implied by each scope: submit implies read, admin implies all, work no other."""


@dataclass(frozen=True)
class Principal:
    """An authenticated owner with scopes."""

    owner: str
    scopes: frozenset[Scope]
    token_id: str | None = None
    """None for `RVC_TRAIN_TOKEN` and for `rvc-train admin`."""
    address: str = ""
    """IP address of the client."""
    request_id: str = ""

    def has_scope(self, scope: Scope) -> bool:
        """Whether the principal has the scope, or one that implies it."""
        return any(scope in IMPLIED[granted] for granted in self.scopes)

    @property
    def visible_owner(self) -> str | None:
        """The owner whose resources the principal may see; None: all owners."""
        return None if self.has_scope(Scope.ADMIN) else self.owner


ADMIN_SCOPES = frozenset({Scope.ADMIN})

LOCAL_ADMINISTRATOR = Principal(LOCAL_OWNER, ADMIN_SCOPES, address="rvc-train admin")
"""The administrator who runs `rvc-train admin` on the server's machine."""

current_principal: ContextVar[Principal | None] = ContextVar("current_principal", default=None)
"""Set for each request by `server.auth.authentication`; None in workers and periodic tasks."""


def current_rights() -> tuple[str | None, frozenset[Scope]] | None:
    """The properties of the current principal that responses may depend on: the owner it sees, and its scopes."""
    principal = current_principal.get()
    return None if principal is None else (principal.visible_owner, principal.scopes)
