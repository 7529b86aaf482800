"""Routes of tokens: create, list, revoke. For administrators."""

from typing import Annotated

from fastapi import Depends, Request, Response

from rvc_train.schemas.access import Scope, TokenCreate, TokenMade, TokenPublic
from rvc_train.schemas.base import Page
from server.api.authorization import requires
from server.context import Context
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented

router = RouterUnderV1(prefix="/tokens", tags=["access"])

_CURSORS: Cursors[str] = Cursors("tokens", str)


@router.post("", operation_id="tokens_create", status_code=201, responses=documented(422))
@requires(Scope.ADMIN)
def create_token(request: TokenCreate, response: Response, context: Context) -> TokenMade:
    """Create a token for an owner. The answer has its secret, which is shown only once."""
    token, secret = context.tokens.create(request)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"/v1/tokens/{token.id}"
    return TokenMade(secret=secret, **token.model_dump(exclude={"sha256"}))


@router.get("", operation_id="tokens_list", responses=documented(422))
@requires(Scope.ADMIN)
def list_tokens(
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: Limit = 20,
) -> Page[TokenPublic]:
    """List the tokens of all owners without secrets, newest first, including revoked ones."""
    found, has_more = context.tokens.list(after=after, limit=limit)
    data = [TokenPublic.model_validate(each, from_attributes=True) for each in found]
    return _CURSORS.page(request, response, data, data[-1].id if has_more else None)


@router.get("/{token_id}", operation_id="tokens_get", responses=documented(404))
@requires(Scope.ADMIN)
def get_token(token_id: str, context: Context) -> TokenPublic:
    """Get one token without its secret, also a revoked one."""
    return TokenPublic.model_validate(context.tokens.get(token_id), from_attributes=True)


@router.delete("/{token_id}", operation_id="tokens_revoke", status_code=204, responses=documented(404))
@requires(Scope.ADMIN)
def revoke_token(token_id: str, context: Context) -> None:
    """Revoke a token, with immediate effect."""
    context.tokens.revoke(token_id)
