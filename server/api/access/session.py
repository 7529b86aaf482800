"""Routes of browser sessions: a token is exchanged for a cookie that neither scripts nor other sites can use."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.access import Scope, SessionCreate
from server.api.authorization import requires
from server.auth.authentication import COOKIE, SIGN_IN, address_of
from server.context import Context
from server.http.problem_details import documented

router = APIRouter(prefix="/session", tags=["access"])
sign_in = APIRouter(prefix="/v1/session", tags=["access"])
"""Outside `check_access`: sign-in has no principal yet."""


@sign_in.post("", status_code=204, responses=documented(401, 422))
async def create_session(body: SessionCreate, request: Request, response: Response, context: Context) -> None:
    """Sign in: exchange a token for a session cookie."""
    address, request_id = address_of(request.scope), request.state.request_id
    await context.auth_throttle.check(address, body.token)
    opened = await run_in_threadpool(context.tokens.open_session, body.token, address=address, request_id=request_id)
    if opened is None:
        raise await context.auth_throttle.reject(address, SIGN_IN, request_id)
    session_id, expires_at = opened
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
def delete_session(request: Request, response: Response, context: Context) -> None:
    """Sign out."""
    session_id = request.cookies.get(COOKIE)
    if session_id is not None:
        context.tokens.close_session(session_id)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
