"""Routes of the caller, of owners with their quotas, and of the audit trail."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from rvc_train.schemas.access import AuditPublic, Me, OwnerName, OwnerPublic, Quota, Scope
from rvc_train.schemas.base import Page
from server.api.authorization import require_principal, requires
from server.context import Context
from server.http.lists import MAX_LONG_LIMIT, Cursors, Limit, LongLimit
from server.http.problem_details import documented

router = APIRouter(tags=["access"])

_OWNER_CURSORS: Cursors[str] = Cursors("owners", str)
_AUDIT_CURSORS: Cursors[int] = Cursors("audit")

Owner = Annotated[OwnerName, Path()]


@router.get("/me", operation_id="me_get")
@requires(Scope.READ)
def get_me(context: Context) -> Me:
    """Get your owner, scopes, quota and usage."""
    principal = require_principal()
    owner = context.quotas.of(principal.owner)
    return Me(scopes=sorted(principal.scopes), token_id=principal.token_id, **dict(owner))


@router.get("/owners", operation_id="owners_list")
@requires(Scope.ADMIN)
def list_owners(
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_OWNER_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[OwnerPublic]:
    """List all owners with quota and usage."""
    return _OWNER_CURSORS.page_of_all(request, response, context.quotas.all(), lambda one: one.owner, after, limit)


@router.put("/owners/{owner}/quota", operation_id="owners_set_quota", responses=documented(422))
@requires(Scope.ADMIN)
def set_quota(owner: Owner, quota: Quota, context: Context) -> OwnerPublic:
    """Set the quota of one owner."""
    return context.quotas.set(owner, quota)


@router.delete("/owners/{owner}/quota", operation_id="owners_delete_quota", responses=documented(422))
@requires(Scope.ADMIN)
def delete_quota(owner: Owner, context: Context) -> OwnerPublic:
    """Delete the quota of one owner; the server's quota applies again."""
    return context.quotas.set(owner, None)


@router.get("/audit", operation_id="audit_list", responses=documented(422))
@requires(Scope.ADMIN)
def list_audit(
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[int | None, Depends(_AUDIT_CURSORS)],
    actor: Annotated[str | None, Query(max_length=64, description="Only actions of this owner.")] = None,
    action: Annotated[str | None, Query(max_length=64, description="Only this action, such as job.submitted.")] = None,
    target: Annotated[str | None, Query(max_length=200, description="Only actions on this target.")] = None,
    limit: Limit = 20,
) -> Page[AuditPublic]:
    """List the actions of all owners, newest first."""
    found, has_more = context.audit.list(actor=actor, action=action, target=target, after=after, limit=limit)
    data = [AuditPublic.model_validate(each, from_attributes=True) for each in found]
    return _AUDIT_CURSORS.page(request, response, data, data[-1].number if has_more else None)
