"""Parts shared by all requests: retries, errors of `rvc_train.errors`, answers parsed into schemas.

Requests that are safe to repeat (reading, replacing, deleting, a POST with an idempotency key) are retried when there
is no answer or the server is busy.
"""

import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rvc_engine.environment.proxies import proxy_name
from rvc_train.errors import ApiError, ClientError, ConnectionFailed
from rvc_train.retry import RetryPolicy

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
NO_RETRIES = replace(HTTP_RETRIES, max_attempts=1)
TRANSFER_RETRIES = replace(HTTP_RETRIES, max_attempts=6, max_pause_seconds=10)
"""Policy of uploads and downloads, whose attempts continue where the last one ended."""


def retries_of(method: str, headers: Mapping[str, str], is_repeatable: bool | None) -> RetryPolicy:
    """Policy for a request; `is_repeatable` None: decided by the method and the idempotency key."""
    if is_repeatable is None:
        is_repeatable = method in _REPEATABLE or "Idempotency-Key" in headers
    return HTTP_RETRIES if is_repeatable else NO_RETRIES


def parse(shape: type[A], response: httpx.Response) -> A:
    """Parse an answer. Raises ClientError when it does not fit the schema."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        raise ClientError(
            f"{response.request.url} gave an unexpected answer ({error.error_count()} fields differ); check that it is "
            "an rvc-train server of the same version"
        ) from error
