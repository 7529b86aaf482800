"""Published weights on a mirror, whose files may lie in one of several layouts. No torch."""

from collections.abc import Callable, Sequence

import httpx

from rvc_engine.environment.proxies import RoutedTransport
from rvc_engine.errors import MissingWeights
from rvc_engine.weights.catalogue import PublishedFile

_TIMEOUT = httpx.Timeout(30, connect=15)


def _hub_path(file: PublishedFile) -> str:
    return f"{file.repo}/resolve/{file.revision or 'main'}/{file.path}"


LAYOUTS: Sequence[Callable[[PublishedFile], str]] = (_hub_path, lambda file: file.path, lambda file: file.key)
"""Paths of a file below a mirror's address: as on a hub, as in one repository, and as in a folder of weights here."""


def locate(files: Sequence[PublishedFile], address: str) -> dict[str, str]:
    """URL of each file on a mirror, by key. Raises MissingWeights for the first one that it does not offer."""
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT, transport=RoutedTransport()) as client:
        return {file.key: _url(file, address.rstrip("/"), client) for file in files}


def _url(file: PublishedFile, address: str, client: httpx.Client) -> str:
    for layout in LAYOUTS:
        url = f"{address}/{layout(file)}"
        try:
            with client.stream("GET", url) as response:  # not every server has HEAD
                if response.is_success:
                    return url
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise MissingWeights(
                f"{address} cannot be reached ({error or type(error).__name__}); check the address and the network"
            ) from error
    tried = ", ".join(layout(file) for layout in LAYOUTS)
    raise MissingWeights(f"{address} does not offer {file.key}: there is none of {tried}; give another address")
