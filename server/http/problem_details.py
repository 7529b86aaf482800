"""Errors as `application/problem+json` (RFC 9457): the one place that maps exceptions to HTTP responses."""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rvc_train.schemas.system import Problem, ProblemDetail
from server import errors
from server.http.prefix import shown_path
from server.http.problem_types import ADDRESS, OTHER, PROBLEM_TYPES, problem_type
from server.transient_errors import is_database_unavailable

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_STATUS_OF: dict[type[errors.ServerError], int] = {
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.LeaseLost: 409,
    errors.SchemaChanged: 409,
    errors.WorkerVersionRefused: 409,
    errors.CheckpointsDamaged: 409,
    errors.SettingsRefused: 409,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.UploadTooLarge: 413,
    errors.ChecksumMismatch: 460,
    errors.UnsupportedChecksum: 400,
    errors.UnsupportedTusExtension: 400,
    errors.UnsupportedMedia: 415,
    errors.UnsupportedTus: 412,
    errors.PreconditionFailed: 412,
    errors.TooSlow: 408,
    errors.Refused: 422,
    errors.DataAway: 503,
    errors.StorageAway: 503,
    errors.NoSpace: 507,
    errors.TooManyRequests: 429,
    errors.RangeNotSatisfiable: 416,
}
_CODE_OF = {
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    500: "internal",
    503: "unavailable",
}
TUS_VERSION = "1.0.0"
"""Version of the protocol for resumable uploads."""
MAX_PROBLEMS = 100
"""Faults of one request that are listed: a body of 1 MB has room for 80,000, and that answer for seconds of work."""
CHECKSUM_MISMATCH = "Checksum Mismatch"
"""Reason phrase of 460, a status of tus' own."""


def status_of(error: errors.ServerError) -> int:
    """The HTTP status of an error: its own, or its nearest ancestor's."""
    return next((_STATUS_OF[kind] for kind in type(error).__mro__ if kind in _STATUS_OF), 500)


def problem_response(
    status: int,
    detail: str,
    *,
    path: str,
    request_id: str,
    code: str | None = None,
    problems: Sequence[ProblemDetail] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """A complete error response."""
    code = code or _CODE_OF.get(status, OTHER)
    problem = Problem(
        type=f"{ADDRESS}/{code}",
        title=_phrase(status),
        status=status,
        detail=detail,
        instance=shown_path(path),
        code=code,
        request_id=request_id,
        retryable=problem_type(code).is_retryable,
        errors=list(problems),
    )
    return Response(problem.model_dump_json(), status, headers, MEDIA_TYPE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return CHECKSUM_MISMATCH if status == 460 else "Error"


def _respond(request: Request, status: int, detail: str, **more: Any) -> Response:
    request_id = request.scope.get("state", {}).get("request_id", "")
    return problem_response(status, detail, path=request.url.path, request_id=request_id, **more)


def install(app: FastAPI) -> None:
    """Install handlers that turn every error of a route into problem+json."""
    app.add_exception_handler(errors.ServerError, _on_server_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    for kind in (DBAPIError, PoolTimeout):
        app.add_exception_handler(kind, _on_database_error)
    app.add_exception_handler(DataError, _on_data_error)


async def _on_server_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.ServerError):
        raise error
    if status_of(error) >= 500 and not isinstance(error, errors.NoSpace):
        logger.error("internal error", exc_info=error)
    if isinstance(error, errors.NoSpace) and not isinstance(error, errors.StorageQuotaExceeded):
        request.scope.setdefault("state", {})["storage_is_full"] = True  # counted by the outermost middleware
    return problem_of(error, path=request.url.path, request_id=request.scope.get("state", {}).get("request_id", ""))


def problem_of(error: errors.ServerError, *, path: str, request_id: str) -> Response:
    """The complete response for an error."""
    problems = []
    if isinstance(error, errors.Refused) and (error.pointer or error.parameter or error.header):
        place = {"pointer": error.pointer, "parameter": error.parameter, "header": error.header}
        problems = [ProblemDetail(detail=str(error), **place)]
    return problem_response(
        status_of(error),
        str(error),
        path=path,
        request_id=request_id,
        code=error.code,
        problems=problems,
        headers=headers_of(error),
    )


def headers_of(error: errors.ServerError) -> dict[str, str]:
    """Response headers of an error."""
    headers = {}
    if isinstance(error, errors.Unauthorized):
        fault = ', error="invalid_token"' if isinstance(error, errors.InvalidToken) else ""
        headers = {"WWW-Authenticate": f'Bearer realm="rvc-train"{fault}'}
    if isinstance(error, errors.RangeNotSatisfiable):
        headers = {"Content-Range": f"bytes */{error.size}"}
    if isinstance(error, errors.TooManyRequests) and error.retry_after_seconds is not None:
        headers = {"Retry-After": str(math.ceil(error.retry_after_seconds))}
    if isinstance(error, errors.AlreadyDone) and error.location is not None:
        headers = {"Location": error.location}
    if isinstance(error, errors.StillRunning):
        headers = {"Retry-After": "1"}
    if isinstance(error, errors.StorageAway):
        headers = {"Retry-After": "30"}
    if isinstance(error, errors.OffsetMismatch):
        headers = {"Upload-Offset": str(error.offset)}
    if isinstance(error, errors.UnsupportedTus):
        headers = {"Tus-Version": TUS_VERSION}
    return headers


async def _on_data_error(request: Request, _error: Exception) -> Response:
    """PostgreSQL stores no NUL in texts, so that no resource has such a name, and no large numbers."""
    if "\0" in request.url.path:
        return _respond(request, 404, f"not found: {shown_path(request.url.path)!r}")
    return _respond(request, 422, "a text contains a NUL character, or a number is too large; correct it")


async def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problems = error.errors()
    shown = [_problem_detail(each) for each in problems[:MAX_PROBLEMS]]
    first = shown[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place = first.pointer or first.parameter or (first.header and f"header {first.header}") or "the body"
    detail = f"{place}: {first.detail}{more}"
    return _respond(request, 422, detail, problems=shown)


def _problem_detail(error: dict[str, Any]) -> ProblemDetail:
    location, *path = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if location == "body":
        if error["type"] == "json_invalid":
            return ProblemDetail(detail=f"the body is not valid JSON: {error['ctx']['error']}")
        if (
            error["type"] == "model_attributes_type" and not path
        ):  # also the body of `curl -d`, whose header declares a form
            hint = "send a JSON object with the header Content-Type: application/json"
            return ProblemDetail(detail=hint)
        return ProblemDetail(detail=message, pointer="".join(f"/{_escaped(str(part))}" for part in path))
    name = str(path[0])
    return ProblemDetail(detail=message, **{"header" if location == "header" else "parameter": name})


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


async def on_http_error(request: Request, error: Exception) -> Response:
    """Handler of HTTPException: problem details with what the address supports. Raises any other error."""
    if not isinstance(error, HTTPException):
        raise error
    status, detail, path = error.status_code, error.detail, shown_path(request.url.path)
    headers = dict(error.headers or {})
    if status == 400:  # FastAPI's status for invalid UTF-8, and for JSON nested too deeply
        status, detail = 422, "the body is not valid JSON in UTF-8"
    elif status == 404:
        detail = f"not found: {path}"
        if path.endswith("/"):
            detail = f"not found: {path}; leave out the slash at its end"
    elif status == 405:
        detail = f"{path} does not support {request.method}"
        headers["Allow"] = ", ".join(_methods_at(request))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return _respond(request, status, detail, headers=headers)


def _methods_at(request: Request) -> list[str]:
    """Every method that the request's path supports; Starlette's own `Allow` has only the first route's.

    Of paths that fit, the first one counts, as for requests: `/v1/voices/{name}/links` is no voice of that name.
    """
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    fitting = [
        context
        for context in iter_route_contexts(request.app.router.routes)
        if (regex := getattr(context, "path_regex", None)) is not None and regex.match(path)
    ]
    supported = {
        method
        for context in fitting
        if context.path == fitting[0].path
        for method in context.methods or ("GET", "HEAD")  # a folder of files has none
    }
    if "GET" in supported:  # `server.middleware.head`
        supported.add("HEAD")
    tried = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    return [*(method for method in tried if method in supported), "OPTIONS"]


async def _on_database_error(request: Request, error: Exception) -> Response:
    if not is_database_unavailable(error):
        raise error
    request_id = request.scope.get("state", {}).get("request_id", "")
    return database_unavailable(error, path=request.url.path, request_id=request_id)


def database_unavailable(error: Exception, *, path: str, request_id: str) -> Response:
    """The response while the database is unavailable."""
    logger.error("the database is unavailable", exc_info=error)
    detail = "the server's database does not answer at the moment; try again later"
    return problem_response(503, detail, path=path, request_id=request_id, headers={"Retry-After": "5"})


def _description(status: int) -> str:
    """The phrase of a status, and its codes with their meanings."""
    kinds = [f"`{code}`: {kind.meaning}" for code, kind in PROBLEM_TYPES.items() if status in kind.statuses]
    return "  \n".join([f"{_phrase(status)}.", *(kind for kind in kinds if status != 500 or "`internal`" in kind)])


def documented(*statuses: int, also: dict[int, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """Error responses of a route for the OpenAPI document; `also`: its further successful ones.

    `server.openapi` adds their body.
    """
    problems: dict[int | str, dict[str, Any]] = {status: {"description": _description(status)} for status in statuses}
    return problems | dict(also or {})
