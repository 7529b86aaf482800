"""Requests to the server, with answers parsed into their schemas and errors of `rvc_train.errors`.

Requests that are safe to repeat (reading, replacing, deleting, a POST with an idempotency key) are retried when there
is no answer or the server is busy.
"""

import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rvc_engine.environment.proxies import proxy_name
from rvc_train.errors import ApiError, ClientError, ConnectionFailed
from rvc_train.http.problems import error_of
from rvc_train.retry import RetryPolicy
from rvc_train.schemas.base import Page

A = TypeVar("A", bound=BaseModel)

MAX_RETRY_AFTER_SECONDS = 30.0
_BUSY = frozenset({502, 503, 504})
_BUSY_FOR_A_WHILE = frozenset({409, 429})
"""Transient with a `Retry-After` header only: without one, 429 is a quota and 409 a conflict, which last."""
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or one of a busy server or of a proxy in front of it."""
    if isinstance(error, ApiError):
        status = error.problem.status
        return status in _BUSY or (status in _BUSY_FOR_A_WHILE and error.problem.retry_after_seconds is not None)
    return isinstance(error, httpx.TransportError) and _untrusted(error) is None


def _untrusted(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The error of the server's certificate in which another one originates, if any."""
    origin: BaseException | None = error
    while origin is not None and not isinstance(origin, ssl.SSLCertVerificationError):
        origin = origin.__cause__ or origin.__context__
    return origin


def connection_failed(error: httpx.TransportError, base_url: httpx.URL) -> ConnectionFailed:
    """The client's error for a request to a server that gave no answer."""
    if (untrusted := _untrusted(error)) is not None:
        return ConnectionFailed(
            f"the certificate of {base_url} is not trusted ({untrusted.verify_message}); if it is of an authority of "
            "your own, set SSL_CERT_FILE to the file of that authority's certificate"
        )
    reason = str(error) or type(error).__name__
    if (proxy := proxy_name(base_url)) is not None:
        return ConnectionFailed(
            f"no answer from the server at {base_url} through the proxy {proxy} ({reason}); if the proxy is not needed "
            f"to reach the server, set NO_PROXY={base_url.host}"
        )
    return ConnectionFailed(
        f"no answer from the server at {base_url} ({reason}); start it with `rvc-train up`, or "
        "set another address with --server or RVC_TRAIN_SERVER"
    )


def _requested_pause(error: BaseException) -> float | None:
    """Seconds of the `Retry-After` header, within reason."""
    seconds = error.problem.retry_after_seconds if isinstance(error, ApiError) else None
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_SECONDS)


HTTP_RETRIES = RetryPolicy(is_transient, _requested_pause, max_attempts=4)
_NO_RETRIES = replace(HTTP_RETRIES, max_attempts=1)
TRANSFER_RETRIES = replace(HTTP_RETRIES, max_attempts=6, max_pause_seconds=10)
"""Policy of uploads and downloads, whose attempts continue where the last one ended."""


class Transport:
    """Requests to one server."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def send(self, method: str, path: str, *, is_repeatable: bool | None = None, **request: Any) -> httpx.Response:
        """Send a request and return its successful answer. Raises ConnectionFailed, ApiError and its subclasses.

        `is_repeatable`: whether to retry; None: decided by the method and the idempotency key.
        """
        if is_repeatable is None:
            is_repeatable = method in _REPEATABLE or "Idempotency-Key" in (request.get("headers") or {})
        try:
            for attempt in (HTTP_RETRIES if is_repeatable else _NO_RETRIES).retrying():
                with attempt:
                    response = self.http.request(method, path, **request)
                    is_repeated = attempt.retry_state.attempt_number > 1
                    is_deleted = method == "DELETE" and response.status_code == httpx.codes.NOT_FOUND
                    if response.is_error and not (is_deleted and is_repeated):  # deleted by an attempt without answer
                        raise error_of(response)
        except httpx.TransportError as error:
            raise connection_failed(error, self.http.base_url) from error
        return response

    def get(self, path: str, shape: type[A], params: dict[str, Any] | None = None) -> A:
        """Send a GET request and parse the answer."""
        return parse(shape, self.send("GET", path, params=params))

    def call(self, method: str, path: str, shape: type[A], **request: Any) -> A:
        """Send any request and parse the answer."""
        return parse(shape, self.send(method, path, **request))

    def pages(self, path: str, shape: type[A], params: dict[str, Any] | None = None) -> Iterator[A]:
        """Every row of a list, fetched page by page."""
        params = params or {}
        while True:
            page = self.get(path, Page[shape], params)  # type: ignore[valid-type]
            yield from page.data
            if not page.has_more or page.next_cursor is None:
                return
            params = params | {"after": page.next_cursor}


def parse(shape: type[A], response: httpx.Response) -> A:
    """Parse an answer. Raises ClientError when it does not fit the schema."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        raise ClientError(
            f"{response.request.url} gave an unexpected answer ({error.error_count()} fields differ); check that it is "
            "an rvc-train server of the same version"
        ) from error
