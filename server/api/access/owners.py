"""Routes of the caller, of owners with their quotas, and of the audit trail."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from rvc_train.schemas.access import AuditPublic, Me, OwnerList, OwnerName, OwnerPublic, Quota, Scope
from rvc_train.schemas.base import Page
from server.api.authorization import require_principal, requires
from server.context import MAX_INTEGER, Context, Limit, link_next
from server.http.problem_details import documented

router = APIRouter(tags=["access"])

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
def list_owners(context: Context) -> OwnerList:
    """List all owners with quota and usage."""
    return OwnerList(data=context.quotas.all())


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
    actor: Annotated[str | None, Query(max_length=64, description="Only actions of this owner.")] = None,
    action: Annotated[str | None, Query(max_length=64, description="Only this action, such as job.submitted.")] = None,
    target: Annotated[str | None, Query(max_length=200, description="Only actions on this target.")] = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="Cursor of the previous page.")] = None,
    limit: Limit = 20,
) -> Page[AuditPublic]:
    """List the actions of all owners, newest first."""
    found, has_more = context.audit.list(actor=actor, action=action, target=target, after=after, limit=limit)
    cursor = str(found[-1].number) if has_more else None
    link_next(request, response, cursor)
    data = [AuditPublic.model_validate(each, from_attributes=True) for each in found]
    return Page(data=data, has_more=has_more, next_cursor=cursor)
