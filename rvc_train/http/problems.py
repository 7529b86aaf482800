"""Conversion of error answers into exceptions: the one place where an HTTP status becomes an error of the client."""

from dataclasses import replace

import httpx
from pydantic import ValidationError

from rvc_engine.environment.proxies import proxy_name
from rvc_train.errors import ApiError, AuthError, NotFound, Problem
from rvc_train.http.authorization import SOURCE
from rvc_train.schemas import system

UNEXPECTED_ANSWER = "unexpected_answer"
"""Code of an error answer that is not the server's own, but a proxy's or another program's."""


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
            code=UNEXPECTED_ANSWER,
            title=response.reason_phrase,
            detail=_unexpected(response),
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


def _unexpected(response: httpx.Response) -> str:
    """Sentence on an answer that is not the server's own."""
    if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        return (
            "a proxy before the server takes no bodies that large (413); ask its administrator for a higher limit, "
            "which is client_max_body_size in nginx"
        )
    url, answer = response.request.url, f"{response.status_code} {response.reason_phrase}"
    if (proxy := proxy_name(url)) is not None:
        return (
            f"{url} answered {answer} through the proxy {proxy}, which is not the answer of an rvc-train server; if "
            f"the proxy is not needed to reach the server, set NO_PROXY={url.host}"
        )
    return f"{url} answered {answer}, which is not the answer of an rvc-train server; check the server's address"
