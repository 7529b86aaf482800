"""Query parameters: unknown ones are refused by one rule, as unknown fields of a body are; labels select in lists."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import iter_route_contexts
from pydantic import TypeAdapter, ValidationError
from starlette.routing import BaseRoute

from rvc_train.schemas.jobs import MAX_LABELS, LabelKey, LabelValue
from server.errors import Refused

LABEL = "label."
_OPEN_ENDED = {"/v1/jobs": (LABEL,), "/v1/voices": (LABEL,)}
"""Beginnings of parameters whose names callers complete, by path."""

_LABELS: TypeAdapter[dict[LabelKey, LabelValue]] = TypeAdapter(dict[LabelKey, LabelValue])
LABEL_PARAMETERS = {
    "name": "labels",
    "in": "query",
    "required": False,
    "description": "The labels of what is listed: `label.<key>=<value>`; may be repeated.",
    "style": "form",
    "explode": True,
    "schema": {
        "type": "object",
        "patternProperties": {"^label\\.[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$": {"type": "string", "maxLength": 255}},
    },
}
"""In OpenAPI, the fields of such a parameter are parameters of their own."""


class QueryParameters:
    """Known query parameters of each route, collected once."""

    def __init__(self) -> None:
        self._known: dict[Callable[..., Any], tuple[str, ...]] = {}

    def check(self, request: Request) -> None:
        """Raise Refused for a parameter that the request's route does not have."""
        if not request.query_params:
            return
        self._known = self._known or _known(request.app.routes)
        known = self._known.get(request.scope["endpoint"], ())
        for name in request.query_params:
            if name not in known and not (name.startswith(LABEL) and LABEL in known):
                raise Refused(f"there is no query parameter {name!r} here; {_advice(name, known)}", parameter=name)


def _known(routes: Sequence[BaseRoute]) -> dict[Callable[..., Any], tuple[str, ...]]:
    return {
        context.endpoint: tuple(
            field.alias for field in get_flat_params(context.dependant) if isinstance(field.field_info, params.Query)
        )
        + _OPEN_ENDED.get(context.path or "", ())
        for context in iter_route_contexts(routes)
        if context.endpoint is not None and getattr(context, "dependant", None) is not None
    }


def _advice(name: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(name, known, 1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"known are {', '.join(sorted(known))}" if known else "this address takes none"


def wanted_labels(request: Request) -> dict[str, str]:
    """The labels that the query asks for. Refused."""
    items = request.query_params.multi_items()
    labels = {key.removeprefix(LABEL): value for key, value in items if key.startswith(LABEL)}
    if len(labels) > MAX_LABELS:
        raise Refused(f"the query has {len(labels)} labels; at most {MAX_LABELS} are allowed", parameter=LABEL)
    try:
        return _LABELS.validate_python(labels)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"this is not a valid label: {first['msg']}", parameter=f"{LABEL}{first['loc'][0]}") from error
