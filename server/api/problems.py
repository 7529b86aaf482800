"""Routes of the codes of errors: the address in the `type` of each problem, for people and for programs."""

from html import escape

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse

from rvc_train.schemas.system import ProblemTypePublic
from server.errors import NotFound
from server.http.problem_details import documented
from server.http.problem_types import ADDRESS, PROBLEM_TYPES
from server.http.sse import prefers

router = APIRouter(prefix=ADDRESS, tags=["problems"])

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title} · rvc-train</title></head>
<body><main><h1>{title}</h1>
{content}
</main></body>
</html>
"""
_HTML = "text/html"


def _public(code: str) -> ProblemTypePublic:
    kind = PROBLEM_TYPES[code]
    return ProblemTypePublic(
        code=code,
        type=f"{ADDRESS}/{code}",
        statuses=list(kind.statuses),
        meaning=kind.meaning,
        advice=kind.advice,
        retryable=kind.is_retryable,
    )


@router.get(
    "/{code}",
    operation_id="problems_get",
    response_model=ProblemTypePublic,
    responses=documented(404, also={200: {"content": {_HTML: {}}, "description": "JSON or, by `Accept`, a page"}}),
)
async def get_problem(code: str, request: Request) -> Response:
    """Get what a code of errors means, and what to do. Needs no token."""
    if code not in PROBLEM_TYPES:
        raise NotFound(f"there is no code {code!r}; /docs lists the responses of each route")
    public = _public(code)
    headers = {"Vary": "Accept"}
    if not prefers(request, _HTML):
        return JSONResponse(public.model_dump(mode="json"), headers=headers)
    statuses = ", ".join(map(str, public.statuses)) or "any"
    again = "yes" if public.retryable else "no"
    facts = f"<p>Status: {statuses}. The same request may succeed later: {again}.</p>"
    content = f"<p>{escape(public.meaning)}</p>\n<p>{escape(public.advice)}</p>\n{facts}"
    return HTMLResponse(_PAGE.format(title=escape(code), content=content), headers=headers)
