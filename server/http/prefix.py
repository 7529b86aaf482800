"""The path below which a proxy publishes the server, such as `/voices`, from the header `X-Forwarded-Prefix`.

The proxy strips it from the path of a request; addresses in the response that a browser or a client follows begin with
it. The header is taken from every caller, because it changes nothing but their own response; its form is checked, so
that no other host can be named with it.
"""

import re

from starlette.datastructures import Headers
from starlette.types import Scope

HEADER = "X-Forwarded-Prefix"
_FORM = re.compile(r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}/?$")


def prefix_of(scope: Scope) -> str:
    """The prefix of a request's addresses: empty, or with a slash at its start and none at its end."""
    given = Headers(scope=scope).get(HEADER, "")
    return given.rstrip("/") if len(given) <= 200 and _FORM.match(given) else ""
