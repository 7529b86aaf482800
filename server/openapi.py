"""The OpenAPI document: FastAPI's own, completed with what it cannot derive from the routes.

Each route lists its own error responses (`server.http.problem_details.documented`). Those of every guarded route, every
path with an id and every JSON body are added here by rule, as are headers, the body of errors and both authentications.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rvc_train.schemas.system import Problem
from server.auth.authentication import OPEN_PATHS, SIGN_IN
from server.http.problem_details import MEDIA_TYPE, documented
from server.uploads.protocol import ADDRESS as UPLOADS

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Accept-Ranges": ("`bytes`; `none` of a zip.", {"enum": ["bytes", "none"]}),
    "Allow": ("The methods that this path supports.", {"type": "string"}),
    "Content-Disposition": ("The file's name.", {"type": "string"}),
    "Content-Range": ("The range of the bytes sent, or the file's size.", {"type": "string", "pattern": "^bytes "}),
    "ETag": ("The file's sha256.", {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}),
    "Last-Modified": ("Time at which the file was stored.", {"type": "string"}),
    "Link": ("URL of the next page.", {"type": "string"}),
    "Location": ("URL of the new resource.", {"type": "string", "pattern": "^/v1/"}),
    "Repr-Digest": ("The whole file's sha256, by RFC 9530.", {"type": "string", "pattern": "^sha-256=:.*:$"}),
    "Retry-After": ("Seconds until the next attempt.", _NUMBER),
    "Set-Cookie": ("The browser's session.", {"type": "string"}),
    "Tus-Checksum-Algorithm": ("Algorithms accepted in `Upload-Checksum`.", {"type": "string"}),
    "Tus-Extension": ("Supported extensions of tus.", {"type": "string"}),
    "Tus-Max-Size": ("Maximum size of an upload in bytes.", _NUMBER),
    "Tus-Resumable": ("The version of tus.", {"const": "1.0.0"}),
    "Tus-Version": ("Supported versions of tus.", {"const": "1.0.0"}),
    "Upload-Expires": ("Time at which the upload is deleted.", {"type": "string"}),
    "Upload-Length": ("Size of the whole upload in bytes.", _NUMBER),
    "Upload-Metadata": ("Metadata as sent by the client.", {"type": "string"}),
    "Upload-Offset": ("Bytes received so far.", _NUMBER),
    "X-Log-End": ("With `tail` or `offset`: the offset after the last byte sent.", _NUMBER),
    "WWW-Authenticate": ("The authentication scheme.", {"type": "string"}),
    "X-Request-ID": ("Id of the request in the server's log.", {"type": "string"}),
}
EXPOSED_HEADERS = sorted(_HEADERS.keys() - {"Set-Cookie"})
"""Headers that scripts of allowed other origins may read."""
_REQUIRED = frozenset({"Allow", "Content-Range", "Location", "Tus-Resumable", "WWW-Authenticate", "X-Request-ID"})
"""Headers that are always present where they are documented; the others may be missing."""
_ERROR_HEADERS = {401: ["WWW-Authenticate"], 405: ["Allow"], 416: ["Content-Range"], 429: ["Retry-After"]}
_GOOD_HEADERS = {
    "post /v1/jobs": "Location",
    "post /v1/jobs/{job_id}/retry": "Location",
    "post /v1/datasets": "Location",
    "put /v1/datasets/{name}/content": "Location",
    "post /v1/webhooks": "Location",
    "post /v1/session": "Set-Cookie",
    "options /v1/uploads": "Tus-Version Tus-Extension Tus-Max-Size Tus-Checksum-Algorithm",
    "post /v1/uploads": "Location Tus-Resumable Upload-Expires Upload-Offset",
    "head /v1/uploads/{upload_id}": "Upload-Offset Upload-Length Upload-Metadata Tus-Resumable Upload-Expires",
    "patch /v1/uploads/{upload_id}": "Upload-Offset Tus-Resumable Upload-Expires",
    "delete /v1/uploads/{upload_id}": "Tus-Resumable",
    "get /v1/jobs/{job_id}/logs": "X-Log-End",
    "get /v1/jobs/{job_id}/artifacts/{name}": "ETag Last-Modified Repr-Digest Accept-Ranges Content-Disposition",
    "get /v1/jobs/{job_id}/artifacts.zip": "Accept-Ranges Content-Disposition",
    "get /v1/jobs/{job_id}/previews/{name}": "ETag Last-Modified Repr-Digest Accept-Ranges",
}
"""Headers of responses below 300, besides `Link` of a list with pages and `Content-Range` of a part of a file."""
_REQUEST_HEADERS = {
    "Range": "`bytes=0-99`: only these bytes.",
    "If-Range": "The ETag that the range belongs to: if it does not match, the whole file is sent.",
    "If-Match": "ETags of the file that is wanted: 412 if none matches.",
    "If-Modified-Since": "Without `If-None-Match`: 304 if the file is not newer.",
    "If-None-Match": "ETags that the client has: 304 if one matches.",
    "Last-Event-ID": "Id of the last event received: the stream continues after it.",
}
_TUS_VERSION = {
    "name": "Tus-Resumable",
    "in": "header",
    "required": True,
    "description": "Version of the protocol; 412 for others.",
    "schema": {"const": "1.0.0"},
}
_ACCEPTED_HEADERS = {
    "/v1/jobs/{job_id}/artifacts/{name}": ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since"),
    "/v1/jobs/{job_id}/previews/{name}": ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since"),
    "/v1/jobs/{job_id}/logs": ("Range", "Last-Event-ID"),
    "/v1/jobs/{job_id}/events": ("Last-Event-ID",),
}
"""Headers that GET reads from the request itself, invisible to FastAPI."""
_TAGS = {
    "datasets": "Recordings of a voice, and the report on them.",
    "uploads": "Resumable uploads, by tus 1.0.0.",
    "jobs": "Trainings: submit, estimate, list, change, cancel, pause, resume, retry, delete.",
    "progress": "Events and log of a job, as lists or as streams of server-sent events.",
    "results": "Metrics, checkpoints, previews and files of a job.",
    "server": "Queue, workers and the server itself.",
    "weights": "Published weights that training starts from.",
    "webhooks": "HTTP requests to addresses of your own when a job ends, signed by Standard Webhooks.",
    "retention": "What is deleted when.",
    "access": "Owners, tokens, quotas, sessions and the audit trail.",
    "health": "Probes and metrics.",
}
_PATH_PARAMETERS = {
    "dataset_id": "Id of a dataset, `ds_...`.",
    "delivery_id": "Id of a webhook's message.",
    "job_id": "Id of a job, `job_...`.",
    "name": "Name, as in the list.",
    "owner": "Name of an owner.",
    "token_id": "Id of a token.",
    "upload_id": "Id of an upload.",
    "webhook_id": "Id of a webhook.",
    "weights_id": "Id of a set of weights.",
    "worker_id": "Id of a worker.",
}
_FILES = frozenset({"application/octet-stream", "application/zip", "audio/flac", "image/png"})
_TEXTS = frozenset({"text/plain", "text/event-stream"})
_METHODS = frozenset({"get", "head", "options", "post", "put", "patch", "delete"})


def _header_docs(*names: str) -> dict[str, Any]:
    return {
        name: {"description": _HEADERS[name][0], "schema": _HEADERS[name][1], "required": name in _REQUIRED}
        for name in names
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, generated once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = _problem_schema(components["schemas"])
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "A token of this server."},
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": app.state.context.tokens.cookie,
                "description": "A browser's session.",
            },
        }
        schema["security"] = [{"token": []}, {"session": []}]
        schema["servers"] = [{"url": ".", "description": "The folder of this document's address."}]
        schema["info"]["license"] = {"name": "MIT", "identifier": "MIT"}
        schema["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
        for name, component in components["schemas"].items():
            if name.endswith("Patch"):
                _drop_defaults(component)
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own error form, which no response has
            components["schemas"].pop(name, None)
        for path, method, operation in _operations(schema):
            _complete(path, method, operation)
        app.openapi_schema = _exact(schema)
    return app.openapi_schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in schema["paths"].items():
        for method in _METHODS & item.keys():
            yield path, method, item[method]


def _problem_schema(schemas: dict[str, Any]) -> dict[str, Any]:
    made = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(made.pop("$defs", {}))
    return made


def _drop_defaults(component: dict[str, Any]) -> None:
    """Remove the defaults of a patch's fields: a field that is left out stays, whatever its default at creation."""
    for field in component["properties"].values():
        field.pop("default", None)


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    if _is_open(path, method):
        operation["security"] = []
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            parameter.setdefault("description", _PATH_PARAMETERS[parameter["name"]])
    if path.startswith(UPLOADS) and method != "options":
        operation.setdefault("parameters", []).append(_TUS_VERSION)
    if method == "get" and path in _ACCEPTED_HEADERS:
        operation.setdefault("parameters", []).extend(
            {"name": name, "in": "header", "description": _REQUEST_HEADERS[name], "schema": {"type": "string"}}
            for name in _ACCEPTED_HEADERS[path]
        )
    _complete_responses(path, method, operation)


def _is_open(path: str, method: str) -> bool:
    return path in OPEN_PATHS or method == "options" or (path, method) == (SIGN_IN, "post")


def _complete_responses(path: str, method: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status, response in documented(*_usual_errors(path, method, operation)).items():
        responses.setdefault(str(status), response)
    good = _GOOD_HEADERS.get(f"{method} {path}", "").split()
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    if {"after", "limit"} <= names and not path.endswith("/events"):
        good.append("Link")
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            if media_type in _FILES | _TEXTS:
                binary = {"format": "binary"} if media_type in _FILES else {}
                content["schema"] = {"type": "string", **binary}
        headers = good if int(status) < 300 else _ERROR_HEADERS.get(int(status), [])
        partial = ["Content-Range"] if status == "206" else []
        response.setdefault("headers", {}).update(_header_docs("X-Request-ID", *headers, *partial))
        if int(status) >= 400 and "content" not in response and method != "head":
            response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
    operation["responses"] = dict(sorted(responses.items()))


def _usual_errors(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    errors = [500]
    if operation.get("parameters") or "requestBody" in operation:
        errors.append(422)
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        errors.append(413)
    if "{" in path:
        errors.append(404)
    if path not in OPEN_PATHS and method != "options":
        errors += [503]  # the database may be unavailable
        errors += [403, 429] if (path, method) == (SIGN_IN, "post") else [401, 403, 429]
    return errors


def _exact(node: Any) -> Any:
    """Make the document as strict as the schemas.

    FastAPI writes `maximum: 100.0`, which loses digits of large integers. Pydantic writes the pattern of keys, but not
    that other keys are rejected.
    """
    if isinstance(node, dict):
        closed = {"additionalProperties": False} if "patternProperties" in node else {}
        return closed | {key: _exact(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_exact(each) for each in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
