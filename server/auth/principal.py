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

    def may(self, scope: Scope) -> bool:
        """Whether a scope, or one that implies it, is among the caller's."""
        return any(scope in IMPLIED[mine] for mine in self.scopes)

    @property
    def sees(self) -> str | None:
        """The owner whose things the caller sees; None: everyone's."""
        return None if self.may(Scope.ADMIN) else self.owner


EVERYTHING = frozenset({Scope.ADMIN})

AT_THE_MACHINE = Principal(LOCAL_OWNER, EVERYTHING, address="rvc-train admin")
"""Whoever works on the server's machine past HTTP, with `rvc-train admin`."""

present_caller: ContextVar[Principal | None] = ContextVar("present_caller", default=None)
"""Set for each request by `server.auth.authentication`; None in workers and housekeeping."""
