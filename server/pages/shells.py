"""HTML pages as shells: layout and texts. Their data comes from `/v1`, which the browser calls like any client.

So a page itself holds no one's data, and a script can get everything that a page shows. Pages name static files below a
digest of all of them, so browsers keep these without asking, and an upgrade shows at once.
"""

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from rvc_engine.names.code_pages import CODE_PAGES
from server.pages import catalogues

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
DEFAULT_PORT = 8000
"""Port of a server that commands ask without `--server`."""
ADDRESS = "/assets"
"""URL path of the static files."""


@dataclass(frozen=True)
class Shell:
    """One page: its template and its script."""

    name: str
    """Name of the template and the script; its title is the text `<name>.title`."""
    place: str | None
    """Entry of the navigation that is shown as current."""


VOICES = Shell("voices", "voices")
VOICE = Shell("voice", "voices")
JOB = Shell("job", "voices")
NEW = Shell("new", "new")
SERVER = Shell("server", "server")
SIGN_IN = Shell("sign_in", None)
SHARED = Shell("shared", None)
"""Page of a link to one voice, for people without a token."""
MISSING = Shell("missing", None)
"""Page of an address without one."""


def policy(nonce: str) -> str:
    """Content security policy: own files only. The nonce is for the styles that wavesurfer adds to its shadow tree."""
    return (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        f"media-src 'self' blob:; style-src 'self' 'nonce-{nonce}'; worker-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


class Pages:
    """Renderer of shells in the caller's language."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, shell: Shell, request: Request, root: str, status: int = 200) -> HTMLResponse:
        """Render the page for any caller: it holds no data. `root`: path below which a proxy publishes the server."""
        accepted = request.headers.get("accept-language", "")
        language = catalogues.choose(request.cookies.get(catalogues.COOKIE), accepted)
        words, nonce = catalogues.words(language), secrets.token_urlsafe(12)
        html = self._templates.get_template(f"{shell.name}.html").render(
            t=words.__getitem__,
            shell=shell,
            language=language,
            languages=catalogues.languages(),
            words=words,
            nonce=nonce,
            version=version("rvc-train"),
            root=root,
            assets=f"{root}{ADDRESS}/{digest()}",
            code_pages=CODE_PAGES,
            server_option=_server_option(request),
        )
        headers = {
            "Content-Security-Policy": policy(nonce),
            "Content-Language": language,
            "Vary": "Accept-Language, Cookie, X-Forwarded-Prefix",
            "Cache-Control": "no-cache",
        }
        return HTMLResponse(html, status, headers)


def _server_option(request: Request) -> str:
    """Option that a command on this machine needs to find the server; empty at the port where it looks by itself."""
    _, port = request.scope.get("server") or ("", None)  # of the socket: a proxy's or a tunnel's port is another
    return "" if port in {None, DEFAULT_PORT} else f" --server http://127.0.0.1:{port}"


@cache
def digest() -> str:
    """Digest of all static files, 16 hexadecimal digits. Read once per process."""
    found = hashlib.sha256()
    for path in sorted(path for path in STATIC.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(STATIC).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


class Assets(StaticFiles):
    """Static files: kept for good below the present digest, else revalidated by their ETag on each use."""

    def get_path(self, scope: Scope) -> str:
        """The file's path without the digest, which may be that of another version."""
        return re.sub(r"^[0-9a-f]{16}([/\\]|$)", "", super().get_path(scope))  # a backslash on Windows

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        is_current = f"{ADDRESS}/{digest()}/" in scope["path"]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_current else "no-cache"
        if "accept-ranges" in response.headers and "range" not in Headers(scope=scope):
            del response.headers["accept-ranges"]  # so that it may be compressed
        return response
