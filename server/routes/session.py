"""A browser's sign-in: a token for a cookie that scripts cannot read and other sites cannot use."""

from fastapi import APIRouter, Request, Response

from server.access import requires
from server.access_schemas import Scope, SessionCreate
from server.auth import COOKIE
from server.problems import documented
from server.services import ServicesDep

router = APIRouter(prefix="/session", tags=["access"])
sign_in = APIRouter(prefix="/v1/session", tags=["access"])
"""Outside the guarded part: whoever signs in is not yet known."""


@sign_in.post("", status_code=204, responses=documented(401, 422))
def create_session(wish: SessionCreate, request: Request, response: Response, services: ServicesDep) -> None:
    """Show a token, get a cookie."""
    session_id, expires_at = services.tokens.open_session(wish.token)
    response.set_cookie(
        COOKIE,
        session_id,
        expires=expires_at,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )


@router.delete("", status_code=204)
@requires(Scope.READ)
def delete_session(request: Request, response: Response, services: ServicesDep) -> None:
    """Sign out."""
    session_id = request.cookies.get(COOKIE)
    if session_id is not None:
        services.tokens.close_session(session_id)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
