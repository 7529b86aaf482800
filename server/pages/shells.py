"""Pages for people, as shells: the layout and its words. What they show, the browser asks of `/v1` like any client.

So a page tells nothing of anyone by itself, and whatever it shows, a script can get.
"""

import secrets
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from server.pages import catalogues

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
ADDRESS = "/assets"
"""Where the static files are served."""


@dataclass(frozen=True)
class Shell:
    """One page: its template, and the script that brings it to life."""

    name: str
    """Of the template, of the script, and of the words `<name>.title`."""
    place: str | None
    """Which entry of the navigation it belongs to."""


VOICES = Shell("voices", "voices")
JOB = Shell("job", "voices")
NEW = Shell("new", "new")
SERVER = Shell("server", "server")
SIGN_IN = Shell("sign_in", None)


def policy(nonce: str) -> str:
    """What a page may load: its own files. The nonce is for the styles that wavesurfer puts into its shadow tree."""
    return (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        f"media-src 'self' blob:; style-src 'self' 'nonce-{nonce}'; worker-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


class Pages:
    """Renders shells in the caller's language."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def render(self, shell: Shell, request: Request) -> HTMLResponse:
        """The page, for any caller: it holds no data."""
        body = request.headers.get("accept-language", "")
        language = catalogues.choose(request.cookies.get(catalogues.COOKIE), body)
        words, nonce = catalogues.words(language), secrets.token_urlsafe(12)
        html = self._templates.get_template(f"{shell.name}.html").render(
            t=words.__getitem__,
            shell=shell,
            language=language,
            languages=catalogues.languages(),
            words=words,
            nonce=nonce,
            version=version("rvc-train"),
            assets=ADDRESS,
        )
        headers = {
            "Content-Security-Policy": policy(nonce),
            "Content-Language": language,
            "Vary": "Accept-Language, Cookie",
            "Cache-Control": "no-cache",
        }
        return HTMLResponse(html, headers=headers)
