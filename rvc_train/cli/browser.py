"""Signing in to the page of a server: a link with a code, opened in a browser where there is one to see."""

import io
import os
import socket
import sys
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from rvc_train.client import Client
from rvc_train.local_servers import is_loopback

PUBLIC_URL_VARIABLE = "RVC_TRAIN_PUBLIC_URL"
"""Variable with the address by which browsers reach the server of this machine or container, where it is another."""


def sign_in_link(client: Client, url: str) -> str:
    """Link that signs a browser in as the caller, within ten minutes and once.

    The code is in the fragment, which a browser sends to no server and writes to no log of one.
    """
    return f"{page_address(url)}/sign-in#code={client.access.sign_in_code().code}"


def page_address(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Address for a browser of the server that this program reaches at `url`.

    In a container both listen on its own loopback, and a browser outside needs the port that is published. Of another
    server the address is the one that this program was given.
    """
    public = environment.get(PUBLIC_URL_VARIABLE, "")
    is_here = is_loopback(urlsplit(url).hostname or "")
    return (public if public and is_here else url).rstrip("/")


def shared_address(host: str, port: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """Address by which other devices reach the server that listens on `host`; None if they cannot."""
    if public := environment.get(PUBLIC_URL_VARIABLE, ""):
        return public.rstrip("/")
    host = host.strip("[]")
    if is_loopback(host):
        return None
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = _own_address(socket.AF_INET6 if ":" in host else socket.AF_INET) or socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _own_address(family: socket.AddressFamily) -> str | None:
    """This machine's address in the network of its default route; None without one."""
    elsewhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"  # for documentation: nothing is sent
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))
        return str(probe.getsockname()[0])
    return None


def qr_code(text: str) -> str:
    """A QR code of half blocks for a terminal with light letters on a dark ground."""
    import segno  # loaded only when needed

    lines = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(lines, border=2, compact=True)
    return lines.getvalue().rstrip("\n")


def has_display(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser that this program opens would be seen by its user."""
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return False
    if sys.platform in {"win32", "darwin"}:
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def open_browser(link: str) -> bool:
    """Open the link in the user's browser; whether there is one."""
    try:
        return webbrowser.open(link)
    except (webbrowser.Error, OSError):
        return False
