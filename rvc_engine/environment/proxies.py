"""Proxies named in the environment (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`): selection, and use by httpx.

httpx reads the same variables, but fails on entries of `no_proxy` that other programs accept, such as `[::1]`, has no
networks (`10.0.0.0/8`) or patterns (`*.lan`) there, and sends requests for this machine's own addresses to the proxy.
No torch.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any
from urllib.request import getproxies

import httpcore
import httpx

GREETING_SECONDS = 15.0
"""Longest wait for a SOCKS proxy's answer, which may have to connect first."""
SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})


class InvalidProxy(httpx.InvalidURL):
    """A variable of the environment names a proxy that cannot be used; the message is a sentence."""


@dataclass(frozen=True)
class Proxy:
    """A proxy and the variable that names it."""

    url: httpx.URL
    variable: str

    @property
    def name(self) -> str:
        """Its address and variable for messages, without user and password."""
        return f"{self.url.copy_with(userinfo=b'')} of {self.variable}"

    @property
    def is_socks(self) -> bool:
        """Whether it is a SOCKS5 proxy."""
        return self.url.scheme.startswith("socks")


def proxy_for(url: httpx.URL) -> Proxy | None:
    """The proxy for requests to an address; None to connect directly. Raises InvalidProxy."""
    if url.scheme not in {"http", "https"} or _is_this_machine(url.host):
        return None
    configured = getproxies()  # on Windows and macOS also those of the system's settings
    kind = next((kind for kind in (url.scheme, "all") if configured.get(kind)), None)
    if kind is None or _is_excluded(url, configured.get("no", "")):
        return None
    names = {f"{kind}_proxy", f"{kind}_proxy".upper()} & set(os.environ)  # on Windows they are all in upper case
    variable = next((name for name in sorted(names, reverse=True) if os.environ[name]), "the system's settings")
    return Proxy(_parsed(configured[kind].strip(), variable), variable)


def transport_for(url: httpx.URL) -> httpx.BaseTransport:
    """A transport for requests to an address, through its proxy if it has one. Raises InvalidProxy."""
    proxy = proxy_for(url)
    if proxy is None:
        return httpx.HTTPTransport()
    if proxy.is_socks:
        return _SocksTransport(proxy.url)
    return httpx.HTTPTransport(proxy=httpx.Proxy(proxy.url))


def async_transport_for(url: httpx.URL) -> httpx.AsyncBaseTransport:
    """The same for asyncio. Raises InvalidProxy."""
    proxy = proxy_for(url)
    if proxy is None:
        return httpx.AsyncHTTPTransport()
    if proxy.is_socks:
        return _AsyncSocksTransport(proxy.url)
    return httpx.AsyncHTTPTransport(proxy=httpx.Proxy(proxy.url))


def proxy_name(url: httpx.URL) -> str | None:
    """Name of the proxy for an address, for messages; None without one."""
    with suppress(InvalidProxy):
        if (proxy := proxy_for(url)) is not None:
            return proxy.name
    return None


class RoutedTransport(httpx.BaseTransport):
    """Transport that selects the proxy for each request: redirects lead to other hosts."""

    def __init__(self) -> None:
        self._transports: dict[Proxy | None, httpx.BaseTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises InvalidProxy and the errors of httpx."""
        proxy = proxy_for(request.url)
        if proxy not in self._transports:
            self._transports[proxy] = transport_for(request.url)
        return self._transports[proxy].handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()


class _SocksTransport(httpx.HTTPTransport):
    """Transport that raises an error of httpx, after some seconds, when the proxy does not answer as one of SOCKS5."""

    def __init__(self, proxy: httpx.URL) -> None:
        super().__init__(proxy=httpx.Proxy(proxy))
        self._pool._network_backend = _Backend()  # httpx has no argument for it

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with _socks_errors(request):
            return super().handle_request(request)


class _AsyncSocksTransport(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    def __init__(self, proxy: httpx.URL) -> None:
        super().__init__(proxy=httpx.Proxy(proxy))
        self._pool._network_backend = _AsyncBackend()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _socks_errors(request):
            return await super().handle_async_request(request)


@contextmanager
def _socks_errors(request: httpx.Request) -> Iterator[None]:
    from socksio import SOCKSError

    try:
        yield
    except (SOCKSError, AssertionError) as error:  # httpcore raises them as they are
        raise httpx.ProxyError("it did not answer as a SOCKS5 proxy", request=request) from error


class _Backend(httpcore.SyncBackend):
    """Connections to a SOCKS proxy."""

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Connect."""
        return _Stream(super().connect_tcp(*args, **kwargs))


class _Stream(httpcore.NetworkStream):
    """Connection to a SOCKS proxy, with a limit of time for its greeting: httpcore waits for that without one."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what has come."""
        try:
            return self._stream.read(max_bytes, GREETING_SECONDS if timeout is None else timeout)
        except Exception:
            self.close()  # httpcore leaves it open when the greeting fails
            raise

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Begin TLS with the server beyond the proxy."""
        return self._stream.start_tls(*args, **kwargs)

    def get_extra_info(self, info: str) -> Any:
        """A property of the connection."""
        return self._stream.get_extra_info(info)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes."""
        self._stream.write(buffer, GREETING_SECONDS if timeout is None else timeout)


class _AsyncBackend(httpcore.AnyIOBackend):
    """The same for asyncio."""

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """Connect."""
        return _AsyncStream(await super().connect_tcp(*args, **kwargs))


class _AsyncStream(httpcore.AsyncNetworkStream):
    """The same for asyncio."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        """Read what has come."""
        try:
            return await self._stream.read(max_bytes, GREETING_SECONDS if timeout is None else timeout)
        except Exception:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """Begin TLS with the server beyond the proxy."""
        return await self._stream.start_tls(*args, **kwargs)

    def get_extra_info(self, info: str) -> Any:
        """A property of the connection."""
        return self._stream.get_extra_info(info)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        """Write all bytes."""
        await self._stream.write(buffer, GREETING_SECONDS if timeout is None else timeout)


def _parsed(text: str, variable: str) -> httpx.URL:
    """The URL of a proxy: without a scheme http, and `socks://`, as desktops write it, SOCKS5."""
    text = text if "://" in text else f"http://{text}"
    try:
        url = httpx.URL(re.sub("^socks://", "socks5://", text, flags=re.IGNORECASE))
    except httpx.InvalidURL as error:
        raise InvalidProxy(f"{variable} is not the address of a proxy ({error}); correct or unset it") from error
    if url.scheme not in SCHEMES or not url.host:
        raise InvalidProxy(
            f"{variable} names a proxy of an unknown kind; use http://HOST:PORT or socks5://HOST:PORT, or unset it"
        )
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise InvalidProxy(f"the SOCKS proxy of {variable} needs the package socksio; install it, or unset {variable}")
    return url


def _is_this_machine(host: str) -> bool:
    """Whether a host is this machine by its name, or by an address that it would reach from that very address."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host in {socket.gethostname().lower(), ""}:
        return True
    with suppress(ValueError, OSError):
        address = ipaddress.ip_address(host)
        if address.is_loopback:
            return True
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # sends nothing
            return bool(ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address)
    return False


def _is_excluded(url: httpx.URL, no_proxy: str) -> bool:
    """Whether `no_proxy` lists an address: by `*`, host, domain, pattern, IP address or network, and perhaps a port."""
    host, port = url.host.lower().rstrip("."), url.port or (443 if url.scheme == "https" else 80)
    return any(_matches(host, port, entry) for entry in re.split(r"[\s,;]+", no_proxy.lower()) if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    entry = entry.rpartition("://")[2].rstrip("/")
    with_port = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)
    if with_port is not None:
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    entry = entry.replace("[", "").replace("]", "")
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    if "*" in entry:
        return fnmatchcase(host, entry)
    domain = entry.strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
