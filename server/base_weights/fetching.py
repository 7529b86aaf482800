"""Download of base weights from an address that a user names: checked as webhooks' are, after each redirect too."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from server.errors import Refused
from server.http.threads import on_disk
from server.settings import ServerSettings
from server.webhooks.egress import check_url, resolve

if TYPE_CHECKING:
    import httpx

FETCH_SECONDS = 600.0
"""For all of a download."""
IDLE_SECONDS = 30.0
MAX_REDIRECTS = 5
_BLOCK = 1 << 20


async def fetch(url: str, target: Path, pointer: str, max_bytes: int, settings: ServerSettings) -> int:
    """Download a file to `target`; returns its bytes. Raises Refused at `pointer`, UploadTooLarge."""
    import httpx  # loaded only by servers that fetch

    try:
        with anyio.fail_after(FETCH_SECONDS):
            # No connection is kept: one to an address may not be used for another host's certificate.
            limits = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(
                timeout=IDLE_SECONDS, trust_env=False, follow_redirects=False, limits=limits
            ) as client:
                return await _follow(client, url, target, max_bytes, settings)
    except Refused as error:
        raise Refused(str(error), pointer) from error
    except TimeoutError as error:
        raise Refused(f"the download from {_host(url)} took more than {FETCH_SECONDS:.0f} s", pointer) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused(
            f"{_host(url)} cannot be downloaded from ({error or type(error).__name__}); check the address", pointer
        ) from error


async def _follow(client: "httpx.AsyncClient", url: str, target: Path, max_bytes: int, settings: ServerSettings) -> int:
    import httpx

    for _ in range(1 + MAX_REDIRECTS):
        if urlsplit(url).username is not None:
            raise Refused("the URL contains a user name or password, which would be stored; remove it")
        check_url(url)
        address = httpx.URL(url)
        port = address.port or (443 if address.scheme == "https" else 80)
        checked = await resolve(address.host, port, settings.outbound_networks)
        request = client.build_request(
            "GET",
            address.copy_with(host=checked),
            headers={
                "Host": address.netloc.decode("ascii"),
                "User-Agent": "rvc-train",
                "Accept-Encoding": "identity",  # or a small body could unpack to any size
            },
            extensions={"sni_hostname": address.host},  # the certificate is checked against the host name
        )
        response = await client.send(request, stream=True)
        try:
            if response.has_redirect_location:
                url = str(address.join(response.headers["Location"]))
                continue
            if not response.is_success:
                raise Refused(f"{_host(url)} answered {response.status_code}; check the address")
            return await _receive(response, target, max_bytes)
        finally:
            await response.aclose()
    raise Refused(f"the address redirects more than {MAX_REDIRECTS} times; give the file's own address")


async def _receive(response: "httpx.Response", target: Path, max_bytes: int) -> int:
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    received = 0
    with await on_disk(target.open, "wb") as file:
        async for block in response.aiter_raw(_BLOCK):
            received += len(block)
            if received > max_bytes:
                raise _too_large(max_bytes)
            await on_disk(file.write, block)
    if announced.isdecimal() and received != int(announced):
        raise Refused(f"the download ended after {received} of {announced} bytes; try again")
    return received


def _too_large(max_bytes: int) -> Refused:
    return Refused(f"the file has more than the {max_bytes / 1e6:,.1f} MB that there is room for")


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the address"
