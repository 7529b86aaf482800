"""Egress policy: on behalf of users the server calls public addresses, and those of networks that its operator names.

A webhook's URL comes from a user. Without this check it could name the machine's own services, the cloud's metadata
service or a host in the local network. The name is resolved here, and the connection goes to the address that was
checked, so a name that resolves differently a moment later has no effect.
"""

import ipaddress
import socket
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

import anyio

from server.errors import Refused
from server.settings import Network

DNS_SECONDS = 10.0
MAX_REASON = 200
"""Characters that are kept of what another server sent as a reason, which may have 100 kB."""
_DNS_THREADS = anyio.CapacityLimiter(8)
"""Look-ups have threads of their own: name servers that hang keep no request waiting."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_INTERNET = ipaddress.ip_network("2000::/3")
_SPECIAL = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/23", "2001:db8::/32", "3fff::/20")))
"""Parts of 2000::/3 that are tunnels, documentation or other special ranges (IANA, IPv6 special-purpose addresses)."""
_SPECIAL_V4 = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
"""Special ranges that `is_global` of older Pythons lacks, with the metadata service of Oracle's cloud, and Azure's."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is public; an IPv4 address embedded in an IPv6 address is checked itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _INTERNET or any(address in network for network in _SPECIAL):
            return False
    elif any(address in network for network in _SPECIAL_V4):
        return False
    return address.is_global and not address.is_multicast


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the server may call an address: a public one, or one in these networks."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return is_public(address) or any(address in network for network in networks)


def check_url(url: str) -> str:
    """The URL's host. Raises Refused for a URL that a webhook cannot have."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is not a URL ({error})", "/url") from error
    if parts.scheme not in {"http", "https"} or not host or not url.isprintable() or " " in url:
        raise Refused(f"{url!r} is not an http or https URL", "/url")
    if parts.username is not None or parts.password is not None:
        raise Refused(
            "the URL contains a user name or password; remove it, messages are signed with the secret",
            "/url",
        )
    return host


def reason_of(error: Exception) -> str:
    """The beginning of an error's text, which may have the 100 kB of a header that the other side sent; or its name."""
    return str(error)[:MAX_REASON] or type(error).__name__


async def resolve(host: str, port: int, networks: Sequence[Network]) -> str:
    """An address of the host. Raises Refused if it has none within 10 s, or any that is not allowed."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        with anyio.fail_after(DNS_SECONDS):
            found = await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=_DNS_THREADS)
    except TimeoutError:
        raise Refused(f"the host {host!r} cannot be resolved (no answer in {DNS_SECONDS:.0f} s)", "/url") from None
    except (OSError, UnicodeError) as error:
        raise Refused(f"the host {host!r} cannot be resolved ({error})", "/url") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not all(is_allowed(ipaddress.ip_address(address), networks) for address in addresses):
        raise Refused(
            f"{host!r} has an address that is not public, which this server does not call; its administrator can "
            "allow the network of that address with RVC_TRAIN_OUTBOUND_NETWORKS",
            "/url",
        )
    return addresses[0]
