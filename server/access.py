"""What a caller may do: the scope that a route wants, and whether the thing it names is theirs.

Every route of the interface passes here. Reading wants `read`, changing `submit`; a route that wants something else
says so with `requires`. Another owner's thing is not found, as if it were not there.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from sqlmodel import Session, select

from server.access_schemas import Scope
from server.callers import Caller, present_caller
from server.database import read_session
from server.errors import NotFound, ScopeMissing, Unauthorized
from server.services import ServicesDep
from server.tables import Dataset, Job, Upload, Webhook

F = TypeVar("F", bound=Callable[..., Any])

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SCOPE = "_rvc_train_scope"
_OWNED: dict[str, tuple[str, Any, Any]] = {
    "job_id": ("job", Job.id, Job.owner),
    "dataset_id": ("dataset", Dataset.id, Dataset.owner),
    "upload_id": ("upload", Upload.id, Upload.owner),
    "webhook_id": ("webhook", Webhook.id, Webhook.owner),
}
"""Parts of a path that name something with an owner."""


def requires(scope: Scope) -> Callable[[F], F]:
    """Say which scope a route wants, where it is not the usual one. Stands below the route's own decorator."""

    def mark(function: F) -> F:
        setattr(function, _SCOPE, scope)
        return function

    return mark


def wanted_scope(endpoint: Callable[..., Any], method: str) -> Scope:
    """The scope that a route wants."""
    usual = Scope.READ if method in SAFE_METHODS else Scope.SUBMIT
    scope: Scope = getattr(endpoint, _SCOPE, usual)
    return scope


def present() -> Caller:
    """Who is asking. For routes."""
    caller = present_caller.get()
    if caller is None:
        raise Unauthorized("nobody is known to ask")
    return caller


def check_access(request: Request, services: ServicesDep) -> None:
    """Raise ScopeMissing or NotFound. A dependency of all routes under `/v1`."""
    caller = present()
    scope = wanted_scope(request.scope["endpoint"], request.method)
    if not caller.may(scope):
        mine = ", ".join(sorted(caller.scopes)) or "none"
        raise ScopeMissing(f"this needs the scope {scope}, and your token has {mine}; ask the server's keeper for one")
    if caller.sees is None:
        return
    with read_session(services.engine) as session:
        for name, value in request.path_params.items():
            if name in _OWNED:
                _check_owner(session, name, str(value), caller.sees)


def _check_owner(session: Session, name: str, an_id: str, owner: str) -> None:
    kind, id_column, owner_column = _OWNED[name]
    found = session.exec(select(owner_column).where(id_column == an_id)).first()
    if found is not None and found != owner:
        raise NotFound(f"there is no {kind} {an_id}")
