"""Who is asking: an owner with scopes, known to everything that the request touches."""

from contextvars import ContextVar
from dataclasses import dataclass

from rvc_train.schemas.access import Scope
from server.database.tables import LOCAL_OWNER

IMPLIED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.SUBMIT: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.ADMIN: frozenset(Scope),
}
"""Who may submit may also read; who may administer may do all."""


@dataclass(frozen=True)
class Principal:
    """Someone who asks."""

    owner: str
    scopes: frozenset[Scope]
    token_id: str | None = None
    """None for `RVC_TRAIN_TOKEN`, and for whoever sits at the machine of a server without tokens."""
    address: str = ""
    """IP address that the request came from."""
    request_id: str = ""

    def has_scope(self, scope: Scope) -> bool:
        """Whether a scope, or one that implies it, is among the caller's."""
        return any(scope in IMPLIED[mine] for mine in self.scopes)

    @property
    def visible_owner(self) -> str | None:
        """The owner whose things the caller sees; None: everyone's."""
        return None if self.has_scope(Scope.ADMIN) else self.owner


ALL_SCOPES = frozenset({Scope.ADMIN})

LOCAL_ADMINISTRATOR = Principal(LOCAL_OWNER, ALL_SCOPES, address="rvc-train admin")
"""Whoever works on the server's machine past HTTP, with `rvc-train admin`."""

current_principal: ContextVar[Principal | None] = ContextVar("present_caller", default=None)
"""Set for each request by `server.auth.authentication`; None in workers and housekeeping."""
