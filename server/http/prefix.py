"""Paths of requests: what is shown of them, and the path below which a proxy publishes the server, such as `/voices`.

The latter is in the header `X-Forwarded-Prefix`. The proxy strips it from the path of a request; addresses in the
response that a browser or a client follows begin with it. The header is taken from every caller, because it changes
nothing but their own response; its form is checked, so that no other host can be named with it.
"""

import re

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

HEADER = "X-Forwarded-Prefix"
_SECRET = re.compile(r"^/*(?:v1/+)?shared/+", re.IGNORECASE)
"""Beginning of the address of a link to a voice, after which its secret stands."""
_FORM = re.compile(r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}/?$")


def prefix_of(scope: Scope) -> str:
    """The prefix of a request's addresses: empty, or with a slash at its start and none at its end."""
    given = Headers(scope=scope).get(HEADER, "")
    return given.rstrip("/") if len(given) <= 200 and _FORM.match(given) else ""


def shown_path(path: str) -> str:
    """A path for logs and messages: of a link to a voice without its secret, and what follows that."""
    found = _SECRET.match(path)
    return path if found is None else f"{found[0]}..."


class RouterUnderV1(APIRouter):
    """A router with a prefix under `/v1`, whose routes are tried only for paths with it.

    FastAPI tries the routes of every router one after the other, which takes longer than many an answer.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a route fits the request."""
        path, beginning = scope["path"].removeprefix(scope.get("root_path", "")), self.prefix.partition("{")[0]
        return super().matches(scope) if path.startswith(f"/v1{beginning}") else (Match.NONE, {})
