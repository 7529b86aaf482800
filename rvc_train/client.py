"""Python clients of the server's HTTP interface: `Client`, and `AsyncClient` with the same methods as coroutines.

Both take an HTTP client, made by `connect` or `connect_async`. `AsyncClient` (`rvc_train.asynchronous`) is the source;
`Client` (`rvc_train.synchronous`) is generated from it.
"""

from typing import Any

import httpx

from rvc_train.asynchronous.client import AsyncClient
from rvc_train.errors import UsageError
from rvc_train.http.authorization import TokenAuth, local_token, local_token_source
from rvc_train.local_servers import is_loopback
from rvc_train.synchronous.client import Client

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]

TIMEOUT = httpx.Timeout(30, connect=10)
_EXAMPLE = "use one such as http://127.0.0.1:8000"


def connect(url: str, token: str | None = None, token_source: str = "") -> httpx.Client:
    """Make an HTTP client for a server's address, which sends the token to that server only. Raises UsageError.

    `token` None: the local token of a server that this user runs on this machine, if there is one; empty: no token.
    `token_source`: where the caller found the token; the error for a refused token names it.
    """
    try:
        return httpx.Client(**_settings(url, token, token_source))
    except OSError as error:
        raise _unreadable_certificates(error) from error


def connect_async(url: str, token: str | None = None, token_source: str = "") -> httpx.AsyncClient:
    """Make an HTTP client for an `AsyncClient`, as `connect` does for a `Client`. Raises UsageError."""
    try:
        return httpx.AsyncClient(**_settings(url, token, token_source))
    except OSError as error:
        raise _unreadable_certificates(error) from error


def _settings(url: str, token: str | None, token_source: str) -> dict[str, Any]:
    """Arguments of the HTTP client. Raises UsageError."""
    try:
        address = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is not a server address ({error}); {_EXAMPLE}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise UsageError(f"{url!r} is not a server address; {_EXAMPLE}")
    if token is None and (token := local_token(url)) is not None:
        token_source = local_token_source()
    direct: dict[str, None] = {f"all://{address.netloc.decode()}": None}  # a proxy cannot reach this machine
    return {
        "base_url": address,
        "headers": {"User-Agent": "rvc-train", "Accept": "application/json"},
        "auth": TokenAuth(address, token, token_source) if token else None,
        "timeout": TIMEOUT,
        "mounts": direct if is_loopback(address.host) else None,
    }


def _unreadable_certificates(error: OSError) -> UsageError:
    return UsageError(
        f"the certificates named in SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error}); correct the variable"
    )
