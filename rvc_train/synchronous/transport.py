# Generated from rvc_train/asynchronous/transport.py by `make synchronous`: edit that file.
"""Requests to the server, with answers parsed into their schemas and errors of `rvc_train.errors`."""

from collections.abc import Iterator
from typing import Any

import httpx

from rvc_train.http.problems import error_of
from rvc_train.http.transport import A, connection_failed, parse, retries_of
from rvc_train.schemas.base import Page


class Transport:
    """Requests to one server."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def send(self, method: str, path: str, *, is_repeatable: bool | None = None, **request: Any) -> httpx.Response:
        """Send a request and return its successful answer. Raises ConnectionFailed, ApiError and its subclasses.

        `is_repeatable`: whether to retry; None: decided by the method and the idempotency key.
        """
        policy = retries_of(method, request.get("headers") or {}, is_repeatable)
        try:
            for attempt in policy.retrying():
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
            for row in page.data:
                yield row
            if not page.has_more or page.next_cursor is None:
                return
            params = params | {"after": page.next_cursor}

    def all(self, path: str, shape: type[A], params: dict[str, Any] | None = None) -> list[A]:
        """All rows of a list at once."""
        rows: list[A] = []
        for row in self.pages(path, shape, params):
            rows.append(row)
        return rows
