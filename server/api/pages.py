"""Routes of the browser pages: voices, one job, a new voice, the server, sign-in; and `/docs` for the API."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from server.context import AppContext, Context
from server.http.prefix import prefix_of
from server.http.problem_details import on_http_error
from server.http.sse import prefers
from server.pages import shells

router = APIRouter(include_in_schema=False)

_PAGES = {
    "/": shells.VOICES,
    "/jobs/{job_id}": shells.JOB,  # the script reads the id from the address
    "/new": shells.NEW,
    "/server": shells.SERVER,
    "/sign-in": shells.SIGN_IN,
    "/shared/{secret}": shells.SHARED,  # likewise
}


def _endpoint(shell: shells.Shell) -> Callable[..., HTMLResponse]:
    def page(request: Request, context: Context) -> HTMLResponse:
        return context.pages.render(shell, request, prefix_of(request.scope))

    return page


for _path, _shell in _PAGES.items():
    router.add_api_route(_path, _endpoint(_shell), methods=["GET"])


async def missing(request: Request, error: Exception) -> Response:
    """Handler of 404 for an address without a route: a page for browsers, else problem details."""
    is_of_api = request.url.path.startswith(("/v1", shells.ADDRESS, "/static/", "/problems/"))
    if is_of_api or not prefers(request, "text/html"):
        return await on_http_error(request, error)
    context: AppContext = request.app.state.context
    return context.pages.render(shells.MISSING, request, prefix_of(request.scope), 404)


_DOCS = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>rvc-train: the interface</title>
<link rel="stylesheet" href="static/swagger-ui/swagger-ui.css">
</head>
<body>
<div id="interface"></div>
<script src="static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="static/docs.js"></script>
</body>
</html>
"""
_DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
}


@router.get("/docs")
def docs() -> HTMLResponse:
    """Show the whole API, to read and to try."""
    return HTMLResponse(_DOCS, headers=_DOCS_HEADERS)
