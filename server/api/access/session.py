"""Routes of browser sessions: a token or code is exchanged for a cookie that scripts and other sites cannot use."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.access import Scope, SessionCreate, SignInCode
from server.api.authorization import require_principal, requires
from server.auth.authentication import SIGN_IN, address_of
from server.context import Context
from server.errors import Unauthorized
from server.http.prefix import RouterUnderV1, prefix_of
from server.http.problem_details import documented

router = RouterUnderV1(prefix="/session", tags=["access"])
sign_in = APIRouter(prefix="/v1/session", tags=["access"])
"""Outside `check_access`: sign-in has no principal yet."""
USED_CODE = "this link has been used, or is older than ten minutes; run `rvc-train open` for a new one"


@sign_in.post("", operation_id="sessions_create", status_code=204, responses=documented(401, 422))
async def create_session(body: SessionCreate, request: Request, response: Response, context: Context) -> None:
    """Sign in: exchange a token, or a sign-in code, for a session cookie."""
    caller = {"address": address_of(request.scope), "request_id": request.state.request_id}
    await context.auth_throttle.check(caller["address"], body.token or body.code or "")
    if body.code is not None:
        opened = await run_in_threadpool(context.tokens.open_session_with_code, body.code, **caller)
    else:
        opened = await run_in_threadpool(context.tokens.open_session, body.token or "", **caller)
    if opened is None:
        refusal = await context.auth_throttle.reject(caller["address"], SIGN_IN, caller["request_id"])
        raise refusal if body.code is None else Unauthorized(USED_CODE)
    session_id, expires_at = opened
    response.set_cookie(
        context.tokens.cookie,
        session_id,
        expires=expires_at,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=_cookie_path(request),
    )


@router.post("/code", operation_id="sessions_create_code")
@requires(Scope.READ)
def create_code(response: Response, context: Context) -> SignInCode:
    """Make a code that signs a browser in as you, within ten minutes and once: for a link to `/sign-in#code=...`."""
    code, expires_at = context.tokens.create_code(require_principal())
    response.headers["Cache-Control"] = "no-store"
    return SignInCode(code=code, expires_at=expires_at)


@router.delete("", operation_id="sessions_delete", status_code=204)
@requires(Scope.READ)
def delete_session(request: Request, response: Response, context: Context) -> None:
    """Sign out."""
    session_id = request.cookies.get(context.tokens.cookie)
    if session_id is not None:
        context.tokens.close_session(session_id)
    response.delete_cookie(context.tokens.cookie, path=_cookie_path(request), httponly=True, samesite="strict")


def _cookie_path(request: Request) -> str:
    return prefix_of(request.scope) + "/"
