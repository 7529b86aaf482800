"""The OpenAPI document: FastAPI's own, completed with what it cannot derive from the routes.

Each route lists its own error responses (`server.http.problem_details.documented`). Those of every guarded route, every
path with an id and every JSON body are added here by rule, as are headers, the body of errors and both authentications.
"""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rvc_train.schemas.events import EVENT_DATA, EventPublic, EventType
from rvc_train.schemas.system import Problem
from rvc_train.schemas.voices.conversions import ConversionEvent
from server.auth.authentication import OPEN_PATHS, OPEN_PREFIXES, SIGN_IN
from server.http.problem_details import MEDIA_TYPE, documented
from server.middleware.idempotency import HEADER, MAX_KEY, WITHOUT_KEY
from server.uploads.protocol import ADDRESS as UPLOADS

_REFERENCE = "#/components/schemas/"
_PROBLEM = {"$ref": f"{_REFERENCE}Problem"}
_ANY_STRING = {"type": "string"}
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Accept-Ranges": ("`bytes`; `none` of a zip.", {"enum": ["bytes", "none"]}),
    "Allow": ("The methods that this path supports.", {"type": "string"}),
    "Content-Disposition": ("The file's name.", {"type": "string"}),
    "Content-Range": ("The range of the bytes sent, or the file's size.", {"type": "string", "pattern": "^bytes "}),
    "ETag": ("The file's sha256.", {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}),
    "Idempotency-Replayed": ("The answer is that of an earlier request with this key.", {"const": "true"}),
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
_OF_FILES = "ETag Last-Modified Repr-Digest Accept-Ranges"
_GOOD_HEADERS = {
    "post /v1/jobs": "Location",
    "post /v1/jobs/{job_id}/retry": "Location",
    "post /v1/datasets": "Location",
    "put /v1/datasets/{name}/content": "Location",
    "post /v1/base-weights": "Location",
    "post /v1/voices/{name}/conversions": "Location",
    "put /v1/voices/{name}/conversions/content": "Location",
    "get /v1/conversions/{conversion_id}/audio": "ETag Last-Modified Repr-Digest Accept-Ranges Content-Disposition",
    "get /v1/conversions/{conversion_id}/audio.zip": "Accept-Ranges Content-Disposition",
    "post /v1/voices": "Location",
    "post /v1/voices/{name}/links": "Location",
    "get /v1/voices/{name}/bundle.zip": "Accept-Ranges Content-Disposition",
    "get /v1/shared/{secret}/files/{name}": "ETag Last-Modified Repr-Digest Accept-Ranges Content-Disposition",
    "get /v1/shared/{secret}/previews/{name}": "ETag Last-Modified Repr-Digest Accept-Ranges",
    "post /v1/webhooks": "Location",
    "post /v1/tokens": "Location",
    "post /v1/session": "Set-Cookie",
    "options /v1/uploads": "Tus-Version Tus-Extension Tus-Max-Size Tus-Checksum-Algorithm",
    "post /v1/uploads": "Location Tus-Resumable Upload-Expires Upload-Offset",
    "head /v1/uploads/{upload_id}": "Upload-Offset Upload-Length Upload-Metadata Tus-Resumable Upload-Expires",
    "patch /v1/uploads/{upload_id}": "Upload-Offset Tus-Resumable Upload-Expires",
    "delete /v1/uploads/{upload_id}": "Tus-Resumable",
    "get /v1/jobs/{job_id}/logs": "X-Log-End",
    "get /v1/jobs/{job_id}/artifacts/{name}": "ETag Last-Modified Repr-Digest Accept-Ranges Content-Disposition",
    "get /v1/jobs/{job_id}/artifacts.zip": "Accept-Ranges Content-Disposition",
    "get /v1/jobs/{job_id}/previews/{name}": _OF_FILES,
    "get /v1/worker/leases/{lease_id}/recordings/{name}": _OF_FILES,
    "get /v1/worker/leases/{lease_id}/start/{name}": _OF_FILES,
    "get /v1/worker/leases/{lease_id}/checkpoints/{name}": _OF_FILES,
    "get /v1/worker/conversions/{lease_id}/voice/{name}": _OF_FILES,
    "get /v1/worker/conversions/{lease_id}/recordings/{number}": _OF_FILES,
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
_CONDITIONS = ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since")
_ACCEPTED_HEADERS = {
    "/v1/jobs/{job_id}/artifacts/{name}": _CONDITIONS,
    "/v1/jobs/{job_id}/previews/{name}": _CONDITIONS,
    "/v1/conversions/{conversion_id}/audio": _CONDITIONS,
    "/v1/conversions/{conversion_id}/events": ("Last-Event-ID",),
    "/v1/shared/{secret}/files/{name}": _CONDITIONS,
    "/v1/shared/{secret}/previews/{name}": _CONDITIONS,
    "/v1/jobs/{job_id}/logs": ("Range", "Last-Event-ID"),
    "/v1/jobs/{job_id}/events": ("Last-Event-ID",),
    "/v1/events": ("Last-Event-ID",),
    "/v1/worker/leases/{lease_id}/recordings/{name}": _CONDITIONS,
    "/v1/worker/leases/{lease_id}/start/{name}": _CONDITIONS,
    "/v1/worker/leases/{lease_id}/checkpoints/{name}": _CONDITIONS,
    "/v1/worker/conversions/{lease_id}/voice/{name}": _CONDITIONS,
    "/v1/worker/conversions/{lease_id}/recordings/{number}": _CONDITIONS,
}
"""Headers that GET reads from the request itself, invisible to FastAPI."""
_KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "For a day, a repeated request with this key gets the first answer and is not carried out again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
_TAGS = {
    "datasets": "Recordings of a voice, and the report on them.",
    "uploads": "Resumable uploads, by tus 1.0.0.",
    "jobs": "Trainings: submit, estimate, list, change, cancel, pause, resume, retry, delete.",
    "progress": "Events and log of a job, as lists or as streams of server-sent events.",
    "results": "Metrics, checkpoints, previews and files of a job.",
    "server": "Queue, workers and the server itself.",
    "voices": "Voices: versions, the current one, links for others, moving to another server.",
    "weights": "Published weights that training starts from.",
    "conversions": "Recordings converted with a voice, on a worker; kept for a day.",
    "worker": "For workers on other machines, with a token of scope `work`.",
    "webhooks": "HTTP requests to addresses of your own when a job ends, signed by Standard Webhooks.",
    "retention": "What is deleted when.",
    "access": "Owners, tokens, quotas, sessions and the audit trail.",
    "health": "Probes and metrics.",
    "problems": "The codes of errors: what each means and what to do.",
}
_PATH_PARAMETERS = {
    "base_weights_id": "Id of base weights, `bw_...`.",
    "code": "The `code` of a problem.",
    "conversion_id": "Id of a conversion, `cnv_...`.",
    "dataset_id": "Id of a dataset, `ds_...`.",
    "delivery_id": "Id of a webhook's message.",
    "job_id": "Id of a job, `job_...`.",
    "lease_id": "Id of a lease, from the answer to its claim.",
    "link_id": "Id of a link, `lnk_...`.",
    "name": "Name, as in the list.",
    "number": "Place of a recording in the report, from 1.",
    "owner": "Name of an owner.",
    "sha256": "The file's sha256, in hexadecimal.",
    "secret": "Last part of a link's address.",
    "token_id": "Id of a token.",
    "upload_id": "Id of an upload.",
    "webhook_id": "Id of a webhook.",
    "weights_id": "Id of a set of weights.",
    "worker_id": "Id of a worker.",
}
_FILES = frozenset({"application/octet-stream", "application/zip", "audio/flac", "audio/*", "video/*", "image/png"})
_TEXTS = frozenset({"text/plain", "text/html", "text/event-stream"})
_STREAMS = {
    "/v1/jobs/{job_id}/events": ("An event as JSON.", {"$ref": f"{_REFERENCE}{EventPublic.__name__}"}),
    "/v1/events": ("An event as JSON.", {"$ref": f"{_REFERENCE}{EventPublic.__name__}"}),
    "/v1/conversions/{conversion_id}/events": (
        "An event as JSON.",
        {"$ref": f"{_REFERENCE}{ConversionEvent.__name__}"},
    ),
    "/v1/jobs/{job_id}/logs": ("A line of the log.", None),
}
"""Content of the messages of each stream, and its schema if it is JSON."""
_ENDLESS = frozenset({"/v1/events"})
_WEBHOOK_RESPONSES = {
    "2XX": {"description": "The message is accepted."},
    "410": {"description": "The webhook is disabled: no further message is sent."},
    "default": {"description": "The message is sent again, with growing intervals, up to three days."},
}
_PAGE = re.compile("^Page_(.*)_$")
"""FastAPI's name for the schema `Page[...]`."""
_METHODS = frozenset({"get", "head", "options", "post", "put", "patch", "delete"})


def _header_docs(*names: str) -> dict[str, Any]:
    return {
        name: {"description": _HEADERS[name][0], "schema": _HEADERS[name][1], "required": name in _REQUIRED}
        for name in names
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, generated once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
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
        _describe_events(components["schemas"])
        for path, method, operation in _operations(schema):
            _complete(path, method, operation)
        for item in schema["webhooks"].values():
            item["post"] |= {"security": [], "responses": _WEBHOOK_RESPONSES}
        app.openapi_schema = _exact(_with_short_names(schema))
    return app.openapi_schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in schema["paths"].items():
        for method in _METHODS & item.keys():
            yield path, method, item[method]


def _problem_schema(schemas: dict[str, Any]) -> dict[str, Any]:
    made = Problem.model_json_schema(ref_template=_REFERENCE + "{model}", mode="serialization")
    schemas.update(made.pop("$defs", {}))
    return made


def _describe_events(schemas: dict[str, Any]) -> None:
    """Make the schema of an event a union by its type, each with its own `data`."""
    event = schemas[EventPublic.__name__]
    for kind in EventType:
        name = _camel_case(kind)
        data: dict[str, Any] = {"type": "object", "description": "Empty.", "additionalProperties": False}
        if kind in EVENT_DATA:
            model, left_out = EVENT_DATA[kind]
            made = model.model_json_schema(ref_template=_REFERENCE + "{model}")
            schemas.update(made.pop("$defs", {}))
            for field in {"type", "time", *left_out}:
                made["properties"].pop(field, None)
            made["required"] = [field for field in made.get("required", []) if field in made["properties"]]
            schemas[f"{name}Data"] = made | {"title": f"{name}Data"}
            data = {"$ref": f"{_REFERENCE}{name}Data"}
        fields = event["properties"] | {"type": {"type": "string", "const": kind.value}, "data": data}
        schemas[f"{name}Event"] = {
            "type": "object",
            "title": f"{name}Event",
            "description": f"Event of type `{kind}`.",
            "properties": fields,
            "required": event["required"],
        }
    names = {kind.value: f"{_REFERENCE}{_camel_case(kind)}Event" for kind in EventType}
    schemas[EventPublic.__name__] = {
        "title": "Event",
        "description": f"{event['description']} A newer server may send further types: pass over them.",
        "oneOf": [{"$ref": reference} for reference in names.values()],
        "discriminator": {"propertyName": "type", "mapping": names},
    }


def _camel_case(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


def _with_short_names(schema: dict[str, Any]) -> dict[str, Any]:
    """The document with `Job` in place of `JobPublic`, and `JobList` in place of `Page_JobPublic_`."""
    schemas = schema["components"]["schemas"]
    names = {name: _PAGE.sub(r"\1List", name).replace("Public", "") for name in schemas}
    for old, new in names.items():
        if old != new and new in names:
            raise ValueError(f"both {old} and {new} are schemas; rename one of the classes")
    references = {_REFERENCE + old: _REFERENCE + new for old, new in names.items()}

    def renamed(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: renamed(value) for key, value in node.items()}
        if isinstance(node, list):
            return [renamed(each) for each in node]
        return references.get(node, node) if isinstance(node, str) else node

    short = {names[name]: component | {"title": names[name]} for name, component in schemas.items()}
    schema["components"]["schemas"] = dict(sorted(short.items()))
    renamed_schema: dict[str, Any] = renamed(schema)
    return renamed_schema


def _drop_defaults(component: dict[str, Any]) -> None:
    """Remove the defaults of a patch's fields: a field that is left out stays, whatever its default at creation."""
    for field in component["properties"].values():
        field.pop("default", None)


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    if _is_open(path, method) or (path, method) == (SIGN_IN, "post"):
        operation["security"] = []
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            parameter.setdefault("description", _PATH_PARAMETERS[parameter["name"]])
    if path.startswith(UPLOADS) and method != "options":
        operation.setdefault("parameters", []).append(_TUS_VERSION)
    if method == "post" and not WITHOUT_KEY.match(path) and "Idempotency-Key" not in str(operation.get("parameters")):
        operation.setdefault("parameters", []).append(_KEY_PARAMETER)
    if method == "get" and path in _ACCEPTED_HEADERS:
        operation.setdefault("parameters", []).extend(
            {"name": name, "in": "header", "description": _REQUEST_HEADERS[name], "schema": {"type": "string"}}
            for name in _ACCEPTED_HEADERS[path]
        )
    _complete_responses(path, method, operation)


def _is_open(path: str, method: str) -> bool:
    return method == "options" or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def _complete_responses(path: str, method: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status, response in documented(*_usual_errors(path, method, operation)).items():
        responses.setdefault(str(status), response)
    good = _GOOD_HEADERS.get(f"{method} {path}", "").split()
    if method == "post" and not WITHOUT_KEY.match(path):
        good.append("Idempotency-Replayed")
    names = {parameter["name"] for parameter in operation.get("parameters", [])}
    if {"after", "limit"} <= names and not path.endswith("}/events"):
        good.append("Link")
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            if media_type in _FILES | _TEXTS:
                binary = {"format": "binary"} if media_type in _FILES else {}
                content["schema"] = {"type": "string", **binary}
            if media_type == "text/event-stream":
                content["schema"]["description"], content["x-itemSchema"] = _stream_message(path)
        headers = good if int(status) < 300 else _ERROR_HEADERS.get(int(status), [])
        partial = ["Content-Range"] if status == "206" else []
        response.setdefault("headers", {}).update(_header_docs("X-Request-ID", *headers, *partial))
        if int(status) >= 400 and "content" not in response and method != "head":
            response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
    operation["responses"] = dict(sorted(responses.items()))


def _stream_message(path: str) -> tuple[str, dict[str, Any]]:
    """Description of a stream, and schema of its messages, in the form of OpenAPI 3.2's `itemSchema`."""
    text, content = _STREAMS[path]
    has_end = path not in _ENDLESS
    end = " In the message `end`: the job's last status." if has_end else ""
    data: dict[str, Any] = {"type": "string", "description": text + end}
    if content is not None:
        data |= {"contentMediaType": "application/json", "contentSchema": content}
    fields = {
        "id": {"type": "string", "description": "Value of `Last-Event-ID` to continue after this message."},
        "event": {"type": "string", "enum": ["message", "end"] if has_end else ["message"]},
        "data": data,
    }
    message = {"type": "object", "properties": fields, "required": ["data"]}
    last = "; `event: end` is the last one." if has_end else "; the first has an id alone, and there is no last one."
    return f"Server-sent events, each with `id` and `data`{last}", message


def _usual_errors(path: str, method: str, operation: dict[str, Any]) -> list[int]:
    has_key = method == "post" and not WITHOUT_KEY.match(path)
    errors = [409] if has_key else []
    errors += [422, 500]  # 422 also for a query parameter that there is not
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        errors.append(413)
    if "{" in path:
        errors.append(404)
    if not _is_open(path, method):
        errors += [503]  # the database may be unavailable
        errors += [403, 429] if (path, method) == (SIGN_IN, "post") else [401, 403, 429]
    return errors


def _exact(node: Any) -> Any:
    """Make the document as strict as the schemas.

    FastAPI writes `maximum: 100.0`, which loses digits of large integers. Pydantic writes the pattern of keys, but not
    that other keys are rejected. Answers have the values of an enumeration; only our client takes others, of a newer
    server.
    """
    if isinstance(node, dict):
        if (choices := node.get("anyOf")) and len(choices) == 2 and "$ref" in choices[0] and choices[1] == _ANY_STRING:
            return _exact({key: value for key, value in node.items() if key != "anyOf"} | choices[0])
        closed = {"additionalProperties": False} if "patternProperties" in node else {}
        return closed | {key: _exact(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_exact(each) for each in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
