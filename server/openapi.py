"""The interface's own document: what FastAPI cannot know of it is added here, in one place.

Each route names its own answers (`server.http.problem_details.documented`); those that every guarded route, every path
with an id, or every JSON body can have are added by rule, as are the form of errors, headers and the two ways to
authenticate.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rvc_train.schemas.system import Problem
from server.auth.authentication import COOKIE, OPEN_PATHS, SIGN_IN
from server.http.problem_details import MEDIA_TYPE, documented

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Accept-Ranges": ("`bytes`", {"const": "bytes"}),
    "Allow": ("The methods that are possible here.", {"type": "string"}),
    "Content-Disposition": ("The file's name.", {"type": "string"}),
    "Content-Range": ("Which bytes these are, or how many there are.", {"type": "string", "pattern": "^bytes "}),
    "ETag": ("The file's sha256.", {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}),
    "Link": ("The next page.", {"type": "string"}),
    "Location": ("Where the new thing is.", {"type": "string", "pattern": "^/v1/"}),
    "Retry-After": ("Seconds after which to try again.", _NUMBER),
    "Set-Cookie": ("The browser's session.", {"type": "string"}),
    "Tus-Checksum-Algorithm": ("Known to `Upload-Checksum`.", {"type": "string"}),
    "Tus-Extension": ("What is spoken of tus.", {"type": "string"}),
    "Tus-Max-Size": ("Bytes of an upload at most.", _NUMBER),
    "Tus-Resumable": ("The version of tus.", {"const": "1.0.0"}),
    "Tus-Version": ("The versions of tus that are spoken.", {"const": "1.0.0"}),
    "Upload-Expires": ("Until when the upload is kept.", {"type": "string"}),
    "Upload-Length": ("Bytes of the whole upload.", _NUMBER),
    "Upload-Metadata": ("As it was given.", {"type": "string"}),
    "Upload-Offset": ("Bytes that are here.", _NUMBER),
    "X-Log-End": ("With `tail` or `offset`: the offset behind what was sent.", _NUMBER),
    "WWW-Authenticate": ("How to say who you are.", {"type": "string"}),
    "X-Request-ID": ("Names the request in the server's log.", {"type": "string"}),
}
_REQUIRED = frozenset({"Allow", "Content-Range", "Location", "Tus-Resumable", "WWW-Authenticate", "X-Request-ID"})
"""Always there where they are told of; others may be missing."""
_ERROR_HEADERS = {401: ("WWW-Authenticate",), 405: ("Allow",), 416: ("Content-Range",), 429: ("Retry-After",)}
_TUS = ("Tus-Resumable", "Upload-Expires")
_GOOD_HEADERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("post", "/v1/jobs"): ("Location",),
    ("post", "/v1/jobs/{job_id}/retry"): ("Location",),
    ("post", "/v1/datasets"): ("Location",),
    ("put", "/v1/datasets/{name}/content"): ("Location",),
    ("post", "/v1/webhooks"): ("Location",),
    ("post", "/v1/session"): ("Set-Cookie",),
    ("options", "/v1/uploads"): (
        *("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
    ),
    ("post", "/v1/uploads"): ("Location", *_TUS),
    ("head", "/v1/uploads/{upload_id}"): ("Upload-Offset", "Upload-Length", "Upload-Metadata", *_TUS),
    ("patch", "/v1/uploads/{upload_id}"): ("Upload-Offset", *_TUS),
    ("delete", "/v1/uploads/{upload_id}"): ("Tus-Resumable",),
    ("get", "/v1/jobs/{job_id}/logs"): ("X-Log-End",),
    ("get", "/v1/jobs/{job_id}/artifacts/{name}"): ("ETag", "Accept-Ranges", "Content-Disposition"),
    ("get", "/v1/jobs/{job_id}/artifacts.zip"): ("Content-Disposition",),
    ("get", "/v1/jobs/{job_id}/previews/{name}"): ("ETag", "Accept-Ranges"),
}
"""Of answers below 300. A list that is told page by page has `Link`, a part of a file `Content-Range`."""
_ASKED_BY_HEADER = {
    "Range": "`bytes=0-99`: only a part.",
    "If-Range": "The ETag of the file that the range is of: another file comes whole.",
    "If-None-Match": "ETags that are here already: 304 for one of them.",
    "Last-Event-ID": "Of a stream that broke off: go on behind it.",
}
_TAKEN_HEADERS = {
    "/v1/jobs/{job_id}/artifacts/{name}": ("Range", "If-Range", "If-None-Match"),
    "/v1/jobs/{job_id}/previews/{name}": ("Range", "If-Range", "If-None-Match"),
    "/v1/jobs/{job_id}/logs": ("Range", "Last-Event-ID"),
    "/v1/jobs/{job_id}/events": ("Last-Event-ID",),
}
"""What GET reads of the request itself, so that FastAPI does not know of it."""
_METHODS = frozenset({"get", "head", "options", "post", "put", "patch", "delete"})


def _header_docs(*names: str) -> dict[str, Any]:
    headers = {name: _HEADERS[name] for name in names}
    return {
        name: {"description": text, "schema": schema, "required": name in _REQUIRED}
        for name, (text, schema) in headers.items()
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = made.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = _problem_schema(components["schemas"])
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "A token of this server."},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A browser's sign-in."},
        }
        made["security"] = [{"token": []}, {"session": []}]
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form, which nobody gets to see
            components["schemas"].pop(name, None)
        for path, method, operation in _operations(made):
            _complete(path, method, operation)
        app.openapi_schema = _exact(made)
    return app.openapi_schema


def _operations(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in made["paths"].items():
        for method in _METHODS & item.keys():
            yield path, method, item[method]


def _problem_schema(schemas: dict[str, Any]) -> dict[str, Any]:
    made = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(made.pop("$defs", {}))
    return made


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    if path in OPEN_PATHS or (path, method) == (SIGN_IN, "post"):
        operation["security"] = []
    for parameter in operation.get("parameters", []):
        parameter["required"] |= parameter["name"] == "tus-resumable"  # 412 without it, so FastAPI does not know
    if method == "get" and path in _TAKEN_HEADERS:
        operation.setdefault("parameters", []).extend(
            {"name": name, "in": "header", "description": _ASKED_BY_HEADER[name], "schema": {"type": "string"}}
            for name in _TAKEN_HEADERS[path]
        )
    _complete_answers(path, method, operation)


def _complete_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    answers: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    for status, answer in documented(*_usual_errors(path, method, operation)).items():
        answers.setdefault(str(status), answer)
    good = list(_GOOD_HEADERS.get((method, path), ()))
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    if {"after", "limit"} <= names and not path.endswith("/events"):
        good.append("Link")
    for status, answer in answers.items():
        headers = good if int(status) < 300 else _ERROR_HEADERS.get(int(status), ())
        partial = ("Content-Range",) if status == "206" else ()
        answer.setdefault("headers", {}).update(_header_docs("X-Request-ID", *headers, *partial))
        if int(status) >= 400 and "content" not in answer and method != "head":
            answer["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
    operation["responses"] = dict(sorted(answers.items()))


def _usual_errors(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    errors = [500]
    if operation.get("parameters") or "requestBody" in operation:
        errors.append(422)
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        errors.append(413)
    if "{" in path:
        errors.append(404)
    if path not in OPEN_PATHS:
        errors += [503]  # the database may be away
        errors += [403, 429] if (path, method) == (SIGN_IN, "post") else [401, 403, 429]
    return errors


def _exact(node: Any) -> Any:
    """The document as strictly as the shapes are meant.

    FastAPI writes `maximum: 100.0`, and large whole numbers are not the same as a float's decimals. Pydantic tells of
    the pattern that keys match, but not that others are refused.
    """
    if isinstance(node, dict):
        closed = {"additionalProperties": False} if "patternProperties" in node else {}
        return closed | {key: _exact(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_exact(each) for each in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
