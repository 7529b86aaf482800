"""Python clients of the server's HTTP interface: `Client`, and `AsyncClient` with the same methods as coroutines.

Both take an HTTP client, made by `connect` or `connect_async`. `AsyncClient` (`rvc_train.asynchronous`) is the source;
`Client` (`rvc_train.synchronous`) is generated from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from rvc_engine.environment.proxies import InvalidProxy, async_transport_for, transport_for
from rvc_train.asynchronous.client import AsyncClient
from rvc_train.errors import UsageError
from rvc_train.http.authorization import TokenAuth, local_token, local_token_source
from rvc_train.synchronous.client import Client

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]

TIMEOUT = httpx.Timeout(30, connect=10)
_EXAMPLE = "use one such as http://127.0.0.1:8000"


def connect(url: str, token: str | None = None, token_source: str = "") -> httpx.Client:
    """Make an HTTP client for a server's address, which sends the token to that server only. Raises UsageError.

    `token` None: the local token of a server that this user runs on this machine, if there is one; empty: no token.
    `token_source`: where the caller found the token; the error for a refused token names it.
    """
    settings = _settings(url, token, token_source)
    with _usage_errors():
        return httpx.Client(**settings, transport=transport_for(settings["base_url"]))


def connect_async(url: str, token: str | None = None, token_source: str = "") -> httpx.AsyncClient:
    """Make an HTTP client for an `AsyncClient`, as `connect` does for a `Client`. Raises UsageError."""
    settings = _settings(url, token, token_source)
    with _usage_errors():
        return httpx.AsyncClient(**settings, transport=async_transport_for(settings["base_url"]))


def _settings(url: str, token: str | None, token_source: str) -> dict[str, Any]:
    """Arguments of the HTTP client. Raises UsageError."""
    try:
        address = httpx.URL(url.strip().rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is not a server address ({error}); {_EXAMPLE}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise UsageError(f"{url!r} is not a server address; {_EXAMPLE}")
    if token is None and (token := local_token(url)) is not None:
        token_source = local_token_source()
    return {
        "base_url": address,
        "headers": {"User-Agent": "rvc-train", "Accept": "application/json"},
        "auth": TokenAuth(address, token, token_source) if token else None,
        "timeout": TIMEOUT,
    }


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Raise UsageError for variables of the environment that name no usable proxy or certificates."""
    try:
        yield
    except InvalidProxy as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(
            f"the certificates named in SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error}); correct the variable"
        ) from error
