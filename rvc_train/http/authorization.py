"""The token in requests, with a text on where it was found, and the local token of a server on this machine."""

from collections.abc import Generator
from contextlib import suppress

import httpx

from rvc_train.errors import UsageError
from rvc_train.local_servers import (
    DamagedFile,
    LocalServers,
    address_key,
    is_loopback,
    local_servers_file,
    read_local_servers,
)

SOURCE = "rvc_train_token_source"
"""Key of a request's extensions: where its token was found, for the message of a 401."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class TokenAuth(httpx.Auth):
    """Adds the token to each request to one server, and to no other: an answer may contain any address."""

    def __init__(self, server: httpx.URL, token: str, source: str) -> None:
        """`source`: place in which the token was found, for messages; may be empty."""
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise UsageError("the token contains a space or another character that tokens do not have; copy it again")
        self._origin = _origin(server)
        self._header = f"Bearer {token}"
        self._source = source

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx for each request."""
        if _origin(request.url) == self._origin:
            request.headers.setdefault("Authorization", self._header)
            request.extensions = {**request.extensions, SOURCE: self._source}
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def recorded_token(url: str) -> str | None:
    """The local token recorded for a server's address, whatever that address is; None without one."""
    with suppress(httpx.InvalidURL, OSError, DamagedFile):
        address = httpx.URL(url)
        port = address.port or _DEFAULT_PORTS.get(address.scheme, 0)
        return _servers().token_of(address_key(address.host, port))
    return None


def local_token(url: str) -> str | None:
    """The local token to send to a server: of a loopback address only; None without one."""
    with suppress(httpx.InvalidURL):
        return recorded_token(url) if is_loopback(httpx.URL(url).host) else None
    return None


def local_token_source() -> str:
    """Path of the file with local tokens, for messages."""
    return str(local_servers_file())


def local_file_fault() -> str | None:
    """A sentence on why the file of local tokens is not used; None when it is, or does not exist."""
    try:
        _servers()
    except DamagedFile as error:
        return str(error)
    except OSError as error:
        return f"{local_servers_file()} cannot be read ({error.strerror}); check its owner and mode"
    return None


def _servers() -> LocalServers:
    return read_local_servers(local_servers_file())
