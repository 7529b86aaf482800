"""Authorization: the scope that a route requires, and the owner of the thing that its path names.

Every route under `/v1` passes here, and says with `requires` which scope it wants; one that does not say is refused to
everyone. So is one whose path has a part that is neither something of an owner's nor known to be nobody's. Another
owner's thing is not found, as if it were not there.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from sqlmodel import Session, select

from rvc_train.schemas.access import Scope
from server.auth.principal import Principal, current_principal
from server.context import Context
from server.database.engine import read_session
from server.database.tables import Dataset, Job, Upload, Webhook
from server.errors import Forbidden, NotFound, ScopeMissing, Unauthorized

F = TypeVar("F", bound=Callable[..., Any])

_SCOPE = "_rvc_train_scope"
OWNED_PARAMS: dict[str, tuple[str, Any, Any]] = {
    "job_id": ("job", Job.id, Job.owner),
    "dataset_id": ("dataset", Dataset.id, Dataset.owner),
    "upload_id": ("upload", Upload.id, Upload.owner),
    "webhook_id": ("webhook", Webhook.id, Webhook.owner),
}
"""Path parameters that name something with an owner."""
UNOWNED_PARAMS = frozenset({"name", "weights_id", "worker_id", "token_id", "delivery_id", "owner"})
"""Path parameters that need no ownership check."""


def requires(scope: Scope) -> Callable[[F], F]:
    """Say which scope a route wants. Stands right above the function, below the route's own decorators."""

    def mark(function: F) -> F:
        setattr(function, _SCOPE, scope)
        return function

    return mark


def required_scope(endpoint: Callable[..., Any]) -> Scope | None:
    """The scope that a route wants; None when it does not say."""
    scope: Scope | None = getattr(endpoint, _SCOPE, None)
    return scope


def require_principal() -> Principal:
    """The principal of the request. For routes."""
    principal = current_principal.get()
    if principal is None:
        raise Unauthorized("nobody is known to ask")
    return principal


def _owner_filter(
    owner: Annotated[str | None, Query(max_length=64, description="Only of this owner; for administrators.")] = None,
) -> str | None:
    principal = require_principal()
    if owner is not None and owner != principal.owner and not principal.has_scope(Scope.ADMIN):
        raise ScopeMissing("what others have is for administrators to see; leave `owner` out")
    return principal.visible_owner if owner is None else owner


OwnerFilter = Annotated[str | None, Depends(_owner_filter)]
"""Owner of the rows that a list shows: the principal; for administrators everyone (None), or one owner."""


def check_access(request: Request, context: Context) -> None:
    """Raise ScopeMissing, Forbidden or NotFound. A dependency of all routes under `/v1`."""
    principal = require_principal()
    scope = required_scope(request.scope["endpoint"])
    if scope is None:
        raise Forbidden("nobody may do this: the route does not say which scope it wants")
    if not principal.has_scope(scope):
        mine = ", ".join(sorted(principal.scopes)) or "none"
        raise ScopeMissing(
            f"this needs the scope {scope}, and your token has {mine}; ask the server's administrator for one"
        )
    if principal.visible_owner is None:
        return
    with read_session(context.engine) as session:
        for name, value in request.path_params.items():
            if name in OWNED_PARAMS:
                _check_owner(session, name, str(value), principal.visible_owner)
            elif name not in UNOWNED_PARAMS:
                raise Forbidden(f"nobody may do this: whose `{name}` is, the server does not know")


def _check_owner(session: Session, name: str, an_id: str, owner: str) -> None:
    kind, id_column, owner_column = OWNED_PARAMS[name]
    found = session.exec(select(owner_column).where(id_column == an_id)).first()
    if found is not None and found != owner:
        raise NotFound(f"there is no {kind} {an_id}")
