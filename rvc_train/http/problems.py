"""Error answers as exceptions: the one place where an HTTP status becomes an error of ours."""

import httpx
from pydantic import ValidationError

from rvc_train.errors import ApiError, AuthError, NotFound, Problem
from rvc_train.schemas import system


def error_of(response: httpx.Response) -> ApiError:
    """The exception that an error answer (its body read) stands for."""
    problem = _problem(response)
    match response.status_code:
        case httpx.codes.NOT_FOUND:
            return NotFound(problem)
        case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
            return AuthError(problem)
        case _:
            return ApiError(problem)


def _problem(response: httpx.Response) -> Problem:
    """The answer's body, or what can be said without one (a proxy, a server that is not ours)."""
    try:
        body = system.Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            status=response.status_code,
            code="unexpected_answer",
            title=response.reason_phrase,
            detail=f"{response.request.url} answered {response.status_code} {response.reason_phrase}, and not as an "
            "rvc-train server would; check the server's address",
        )
    return Problem(
        status=body.status,
        code=body.code,
        title=body.title,
        detail=body.detail,
        retryable=body.retryable,
        pointers=tuple((error.detail, error.pointer) for error in body.errors),
        request_id=body.request_id,
    )
