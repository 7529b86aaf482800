"""Signing in to the page of a server: a link with a code, opened in a browser where there is one to see."""

import os
import sys
import webbrowser
from collections.abc import Mapping
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
