"""Egress policy: the server calls public addresses only, unless its administrator allows private ones.

A webhook's URL comes from a user. Without this check it could name the machine's own services, the cloud's metadata
service or a host in the local network. The name is resolved here, and the connection goes to the address that was
checked, so a name that resolves differently a moment later has no effect.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from server.errors import Refused

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is public; an IPv4 address embedded in an IPv6 address is checked itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast


def check_url(url: str) -> str:
    """The URL's host. Raises Refused for a URL that a webhook cannot have."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is not a URL ({error})", "/url") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise Refused(f"{url!r} is not an http or https URL", "/url")
    if parts.username is not None or parts.password is not None:
        raise Refused(
            "the URL contains a user name or password; remove it, messages are signed with the secret",
            "/url",
        )
    return host


def resolve(host: str, port: int, allow_private: bool) -> str:
    """An address of the host. Raises Refused if it has none, or any that is not allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"the host {host!r} cannot be resolved ({error})", "/url") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not allow_private:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address)):
                raise Refused(
                    f"{host!r} has a private address ({address}), which this server does not call; its "
                    "administrator can allow that with RVC_TRAIN_WEBHOOK_ALLOW_PRIVATE=true",
                    "/url",
                )
    return addresses[0]
