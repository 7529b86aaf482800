"""Conversion of error answers into exceptions: the one place where an HTTP status becomes an error of the client."""

from dataclasses import replace

import httpx
from pydantic import ValidationError

from rvc_train.errors import ApiError, AuthError, NotFound, Problem
from rvc_train.http.authorization import SOURCE
from rvc_train.schemas import system


def error_of(response: httpx.Response) -> ApiError:
    """The exception for an error answer, whose body must have been read."""
    problem = _problem(response)
    match response.status_code:
        case httpx.codes.NOT_FOUND:
            return NotFound(problem)
        case httpx.codes.UNAUTHORIZED:
            source = response.request.extensions.get(SOURCE)
            origin = [f"the token that was sent is from {source}"] if source else []
            return AuthError(replace(problem, detail="; ".join([problem.detail, *origin])))
        case httpx.codes.FORBIDDEN:
            return AuthError(problem)
        case _:
            return ApiError(problem)


def _problem(response: httpx.Response) -> Problem:
    """The problem details in the body; made from the status when there are none (from a proxy or another program)."""
    retry_after = response.headers.get("Retry-After", "")
    retry_after_seconds = float(retry_after) if retry_after.isdecimal() else None
    try:
        body = system.Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(
            status=response.status_code,
            code="unexpected_answer",
            title=response.reason_phrase,
            detail=f"{response.request.url} answered {response.status_code} {response.reason_phrase}, which is not the "
            "answer of an rvc-train server; check the server's address",
            retry_after_seconds=retry_after_seconds,
        )
    return Problem(
        status=body.status,
        code=body.code,
        title=body.title,
        detail=body.detail,
        retryable=body.retryable,
        pointers=tuple((error.detail, error.pointer or error.parameter or error.header or "") for error in body.errors),
        request_id=body.request_id,
        retry_after_seconds=retry_after_seconds,
    )
