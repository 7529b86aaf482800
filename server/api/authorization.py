"""Authorization: the scope that a route requires, and the owner of the resource in its path.

It is checked for every route under `/v1`. A route declares its scope with `requires`; without a declaration it is
refused to all callers, and so is a route with a path parameter that is in neither of the tables below. A resource of
another owner is answered with 404, as if it did not exist.
"""

from collections.abc import Callable
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Annotated, Any, TypeVar, cast

import sqlalchemy as sa
from fastapi import Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.access import Scope
from server.auth.principal import Principal, current_principal
from server.context import AppContext, Context
from server.database.engine import read_connection
from server.database.result_tables import VoiceLink
from server.database.tables import BaseWeights, Conversion, Dataset, Job, Upload, Webhook
from server.errors import Forbidden, NotFound, ScopeMissing, Unauthorized
from server.http.threads import to_write

F = TypeVar("F", bound=Callable[..., Any])

_SCOPE = "_rvc_train_scope"
OWNED_PARAMS: dict[str, tuple[str, Any, Any]] = {
    "job_id": ("job", Job.id, Job.owner),
    "dataset_id": ("dataset", Dataset.id, Dataset.owner),
    "upload_id": ("upload", Upload.id, Upload.owner),
    "base_weights_id": ("base weights", BaseWeights.id, BaseWeights.owner),
    "conversion_id": ("conversion", Conversion.id, Conversion.owner),
    "link_id": ("link", VoiceLink.id, VoiceLink.owner),
    "webhook_id": ("webhook", Webhook.id, Webhook.owner),
}
"""Path parameters of resources with an owner: kind, id column, owner column."""
_OWNERS = {
    name: sa.select(owner).where(an_id == sa.bindparam("an_id")) for name, (_, an_id, owner) in OWNED_PARAMS.items()
}
MAX_KNOWN_OWNERS = 10_000
"""Ids whose owner is remembered, in about 2 MB."""
UNOWNED_PARAMS = frozenset(
    {
        "code",
        "name",
        "secret",
        "weights_id",
        "worker_id",
        "token_id",
        "delivery_id",
        "owner",
        "number",
        "lease_id",
        "sha256",
    }
)
"""Path parameters that need no ownership check."""


def requires(scope: Scope) -> Callable[[F], F]:
    """Declare the scope of a route. Goes directly above the function, below the route's own decorators.

    A plain function that requires more than reading runs in a thread for writes.
    """

    def mark(function: F) -> F:
        marked = function if scope is Scope.READ or iscoroutinefunction(function) else _in_writing_thread(function)
        setattr(marked, _SCOPE, scope)
        return marked

    return mark


def _in_writing_thread(function: F) -> F:
    @wraps(function)
    async def run(**arguments: Any) -> Any:
        return await to_write(partial(function, **arguments))

    return cast("F", run)


def required_scope(endpoint: Callable[..., Any]) -> Scope | None:
    """The scope of a route; None when it declares none."""
    scope: Scope | None = getattr(endpoint, _SCOPE, None)
    return scope


def require_principal() -> Principal:
    """The principal of the request. Unauthorized."""
    principal = current_principal.get()
    if principal is None:
        raise Unauthorized("authentication is required")
    return principal


async def _owner_filter(  # a coroutine, which needs no thread
    owner: Annotated[str | None, Query(max_length=64, description="Only of this owner; for administrators.")] = None,
) -> str | None:
    principal = require_principal()
    if owner is not None and owner != principal.owner and not principal.has_scope(Scope.ADMIN):
        raise ScopeMissing("only administrators may list what other owners have; leave out `owner`")
    return principal.visible_owner if owner is None else owner


OwnerFilter = Annotated[str | None, Depends(_owner_filter)]
"""Owner of the listed rows: the principal; for administrators all owners (None), or the one in the query."""


async def _voice_owner(  # a coroutine, which needs no thread
    owner: Annotated[str | None, Query(max_length=64, description="Owner of the voice; for administrators.")] = None,
) -> str:
    principal = require_principal()
    if owner is not None and owner != principal.owner and not principal.has_scope(Scope.ADMIN):
        raise ScopeMissing("only administrators may name another owner; leave out `owner`")
    return principal.owner if owner is None else owner


VoiceOwner = Annotated[str, Depends(_voice_owner)]
"""Owner of the voice that a path names: the principal, or for administrators the one in the query."""


async def check_access(request: Request, context: Context) -> None:
    """Check scope and ownership: a dependency of all routes under `/v1`. ScopeMissing, Forbidden, NotFound."""
    principal = require_principal()
    scope = required_scope(request.scope["endpoint"])
    if scope is None:
        raise Forbidden("this route declares no scope, so all callers are refused; report this as a bug of the server")
    if not principal.has_scope(scope):
        scopes = ", ".join(sorted(principal.scopes)) or "none"
        raise ScopeMissing(
            f"this requires a token with the scope {scope}, and yours has {scopes}; ask the server's administrator"
        )
    if principal.visible_owner is None:
        return
    owned = {name: str(value) for name, value in request.path_params.items() if name not in UNOWNED_PARAMS}
    if unknown := owned.keys() - OWNED_PARAMS.keys():
        raise Forbidden(
            f"the owner of {', '.join(sorted(unknown))} cannot be checked; report this as a bug of the server"
        )
    if not owned:
        return
    await _check_owners(context, owned, principal.visible_owner)


async def _check_owners(context: AppContext, owned: dict[str, str], owner: str) -> None:
    """Raise NotFound for a resource of another owner. One that does not exist is left to the route."""
    for name, value in owned.items():
        found = context.resource_owners.get(value)
        if found is None:  # a resource keeps its owner, and its id is never given to another
            found = await run_in_threadpool(_owner_of, context.engine, name, value)
            if found is not None:
                if len(context.resource_owners) >= MAX_KNOWN_OWNERS:
                    context.resource_owners.clear()
                context.resource_owners[value] = found
        if found not in {None, owner}:
            raise NotFound(f"there is no {OWNED_PARAMS[name][0]} {value}")


def _owner_of(engine: sa.Engine, name: str, an_id: str) -> str | None:
    with read_connection(engine) as connection:
        owner: str | None = connection.execute(_OWNERS[name], {"an_id": an_id}).scalar()
        return owner
