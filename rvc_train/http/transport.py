"""Requests to the server as the rest of the client makes them: answers in their shapes, errors of `rvc_train.errors`.

What does no harm twice (reading, replacing, deleting, a POST with an idempotency key) is sent again a few times, with
growing pauses of random length, when nobody answers or the server says that it is busy.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from rvc_train.errors import ClientError, ConnectionFailed
from rvc_train.http.problems import error_of
from rvc_train.schemas.base import Page

A = TypeVar("A", bound=BaseModel)

TRIES = 4
BUSY = frozenset({429, 502, 503, 504})
MAX_RETRY_AFTER_SECONDS = 30.0
_HARMLESS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class _Busy(Exception):
    """The server said to come again."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Transport:
    """One server, by requests."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def send(self, method: str, path: str, **how: Any) -> httpx.Response:
        """One request and its good answer. Raises ConnectionFailed, or ApiError and its kinds."""
        is_harmless = method in _HARMLESS or "Idempotency-Key" in (how.get("headers") or {})
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES if is_harmless else 1),
            wait=_pause,
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _Busy)),
            reraise=True,
        )
        try:
            for attempt in tries:
                with attempt:
                    response = self._once(method, path, **how)
                    number = attempt.retry_state.attempt_number
        except _Busy as busy:
            raise error_of(busy.response) from busy
        except httpx.TransportError as error:
            url = self.http.base_url
            raise ConnectionFailed(
                f"no answer from the server at {url} ({error or type(error).__name__}); start it with `rvc-train up`, "
                "or name another with --server or RVC_TRAIN_SERVER"
            ) from error
        was_deleted_before = method == "DELETE" and number > 1 and response.status_code == httpx.codes.NOT_FOUND
        if response.is_error and not was_deleted_before:
            raise error_of(response)
        return response

    def _once(self, method: str, path: str, **how: Any) -> httpx.Response:
        response = self.http.request(method, path, **how)
        is_still_running = response.status_code == httpx.codes.CONFLICT and "Retry-After" in response.headers
        is_busy = response.status_code in BUSY
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS and "Retry-After" not in response.headers:
            is_busy = False  # a quota: it does not go by in seconds
        if is_busy or is_still_running:
            raise _Busy(response)
        return response

    def get(self, path: str, shape: type[A], params: dict[str, Any] | None = None) -> A:
        """GET, in its shape."""
        return parse(shape, self.send("GET", path, params=params))

    def call(self, method: str, path: str, shape: type[A], **how: Any) -> A:
        """Any request, its answer in its shape."""
        return parse(shape, self.send(method, path, **how))

    def pages(self, path: str, shape: type[A], params: dict[str, Any] | None = None) -> Iterator[A]:
        """Every row of a list, fetched page by page."""
        params = params or {}
        while True:
            page = self.get(path, Page[shape], params)  # type: ignore[valid-type]
            yield from page.data
            if not page.has_more or page.next_cursor is None:
                return
            params = params | {"after": page.next_cursor}


_random_pause = tenacity.wait_random_exponential(multiplier=0.4, max=5)


def _pause(state: tenacity.RetryCallState) -> float:
    """What the server asks for, within reason; else random and growing."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _Busy):
        text = error.response.headers.get("Retry-After", "")
        if text.isdecimal():
            return min(float(text), MAX_RETRY_AFTER_SECONDS)
    return _random_pause(state)


def parse(shape: type[A], response: httpx.Response) -> A:
    """An answer in its shape. ClientError when it has another."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        raise ClientError(
            f"{response.request.url} answered, but not as this client expects; is it an rvc-train server of the same "
            f"version? ({error.error_count()} fields differ)"
        ) from error
