"""Which addresses the server may call: those of the open internet, unless its administrator says otherwise.

A webhook's address comes from a user. Without this, it could name the machine's own services, the cloud's metadata or
a neighbour in the local network. The name is resolved here and the connection goes to the very address that was
checked, so a name that resolves otherwise a moment later gains nothing.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from server.errors import Refused

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, also when it is written inside another kind of address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast


def check_url(url: str) -> str:
    """The URL's host. Refused when it is no address that a webhook can have."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(f"{url!r} is no URL ({error})", "/url") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise Refused(f"{url!r} is no http or https URL", "/url")
    if parts.username is not None or parts.password is not None:
        raise Refused("the URL holds a name or a password; messages are signed with the secret instead", "/url")
    return host


def resolve(host: str, port: int, allow_private: bool) -> str:
    """An address of the host that may be called. Refused when there is none, or any of its addresses may not be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"the host {host!r} cannot be found ({error})", "/url") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not allow_private:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address)):
                raise Refused(
                    f"{host!r} is an address inside a network ({address}), which this server does not call; its "
                    "administrator can allow that with RVC_TRAIN_WEBHOOK_ALLOW_PRIVATE=true",
                    "/url",
                )
    return addresses[0]
