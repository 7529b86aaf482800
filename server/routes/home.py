"""Pages for people: `/` says what this is, `/docs` shows the interface. Nothing is loaded from elsewhere."""

from importlib.metadata import version

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>rvc-train</title>
<style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }}</style>
</head>
<body>
<h1>rvc-train {version}</h1>
<p>A training server for RVC voices: upload recordings, submit a job, watch it, download the voice.</p>
<ul>
<li><a href="/docs">The HTTP interface</a> (and as <a href="/openapi.json">OpenAPI</a>)</li>
<li>From a terminal: <code>rvc-train dataset upload DIR</code>, <code>rvc-train submit</code>,
<code>rvc-train watch</code>, <code>rvc-train download</code></li>
</ul>
</body>
</html>
"""
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


@router.get("/")
def home() -> HTMLResponse:
    """What this is, and where to go on."""
    return HTMLResponse(_PAGE.format(version=version("rvc-train")), headers=_HEADERS)


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
