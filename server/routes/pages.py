"""Pages for people: voices, one job, a new voice, the server, signing in; and `/docs`, which shows the interface."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from server.pages import shells
from server.services import ServicesDep

router = APIRouter(include_in_schema=False)


@router.get("/")
def voices(request: Request, services: ServicesDep) -> HTMLResponse:
    """Every voice that is made, waits or is ready."""
    return services.pages.render(shells.VOICES, request)


@router.get("/jobs/{job_id}")
def job(request: Request, services: ServicesDep) -> HTMLResponse:
    """One voice being made. The address says which: the browser asks for it."""
    return services.pages.render(shells.JOB, request)


@router.get("/new")
def new(request: Request, services: ServicesDep) -> HTMLResponse:
    """From recordings to a submitted job."""
    return services.pages.render(shells.NEW, request)


@router.get("/server")
def server(request: Request, services: ServicesDep) -> HTMLResponse:
    """Queue, workers, disk, weights, tokens, webhooks, retention."""
    return services.pages.render(shells.SERVER, request)


@router.get("/sign-in")
def sign_in(request: Request, services: ServicesDep) -> HTMLResponse:
    """A token for a cookie."""
    return services.pages.render(shells.SIGN_IN, request)


_DOCS = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>rvc-train: the interface</title>
<link rel="stylesheet" href="/static/swagger-ui/swagger-ui.css">
</head>
<body>
<div id="interface"></div>
<script src="/static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/static/docs.js"></script>
</body>
</html>
"""
_DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
}


@router.get("/docs")
def docs() -> HTMLResponse:
    """The whole interface, to read and to try."""
    return HTMLResponse(_DOCS, headers=_DOCS_HEADERS)
