"""Download of a file from an address that a user names: checked as webhooks' are, after each redirect too, resumed.

A partial download lies at its target, with the server's strong ETag beside it as `<name>.etag`, so that parts of two
different files are never joined (RFC 9110, If-Range).
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

import anyio

from server.errors import Refused
from server.http.threads import on_disk
from server.settings import ServerSettings
from server.webhooks.egress import check_url, reason_of, resolve

if TYPE_CHECKING:
    import httpx

FETCH_SECONDS = 600.0
"""For all of a download that a request waits for."""
IDLE_SECONDS = 30.0
HEAD_SECONDS = 60.0
"""For a request and the headers of its answer: a byte of them now and then would hold a place for weeks."""
PACE_SECONDS = 300.0
LEAST_BYTES_PER_SECOND = 1024
"""Mean rate over `PACE_SECONDS` below which a download is given up: one byte a minute would hold its place for ever."""
MAX_REDIRECTS = 5
_BLOCK = 1 << 20
_MAY_PASS = frozenset({408, 425, 429})
"""Statuses, beside those from 500 on, after which another attempt may succeed."""


class Interrupted(Refused):
    """A download that was cut off, or a server in trouble: another attempt may succeed, from the bytes so far."""


Watch = Callable[[int, int | None], Awaitable[None]]
"""Called with the bytes received, and the file's where known, at the start and as they come; may raise."""


async def _nothing(received: int, total: int | None) -> None:
    pass


@dataclass(frozen=True)
class Source:
    """Address of a file, with the checks of its download."""

    url: str
    check: Callable[[Mapping[str, str]], None] = lambda headers: None
    """Called with the headers before the body is received; may raise."""
    watch: Watch = _nothing
    trusted: str | None = None
    """Origin, such as `https://huggingface.co`, that the operator named: called whatever its address is."""
    token: str | None = field(default=None, repr=False)
    """Bearer token for that origin, sent to no other one."""


@dataclass(frozen=True)
class Download:
    """A complete download."""

    url: str
    """Address of the file itself, after redirects."""
    size: int
    headers: Mapping[str, str]


async def fetch(
    url: str, target: Path, pointer: str, max_bytes: int, settings: ServerSettings, watch: Watch = _nothing
) -> int:
    """Download a file to `target` for a request that waits; returns its bytes. Raises Refused at `pointer`."""
    try:
        with anyio.fail_after(FETCH_SECONDS):
            return (await download(Source(url, watch=watch), target, max_bytes, settings)).size
    except Refused as error:
        raise Refused(str(error), pointer) from error
    except TimeoutError as error:
        raise Refused(f"the download from {host_of(url)} took more than {FETCH_SECONDS:.0f} s", pointer) from error


async def download(source: Source, target: Path, max_bytes: int, settings: ServerSettings) -> Download:
    """Download a file to `target`, from the bytes that are there. Raises Refused; Interrupted if it may pass."""
    import httpx  # loaded only by servers that fetch

    # No connection is kept: one to an address may not be used for another host's certificate.
    limits = httpx.Limits(max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(
            timeout=IDLE_SECONDS, trust_env=False, follow_redirects=False, limits=limits
        ) as client:
            return await _follow(client, source, target, max_bytes, settings)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise Interrupted(_unreachable(source.url, error)) from error
    except httpx.TransportError as error:
        raise Interrupted(
            f"the download from {host_of(source.url)} broke off ({reason_of(error)}); try again"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused(_unreachable(source.url, error)) from error


def _unreachable(url: str, error: Exception) -> str:
    return f"{host_of(url)} cannot be downloaded from ({reason_of(error)}); check the address"


def check_form(url: str) -> None:
    """Raise Refused for a URL that cannot be downloaded from, wherever its host is."""
    with contextlib.suppress(ValueError):  # which `check_url` explains
        if urlsplit(url).username is not None:
            raise Refused("the URL contains a user name or password, which would be stored; remove it")
    check_url(url)


async def check_address(url: str, settings: ServerSettings, trusted: str | None = None) -> str:
    """The network address to connect to for a URL. Raises Refused for one that the server does not call."""
    import httpx

    check_form(url)
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Refused(f"{url!r} is not a URL ({error})") from error
    if origin_of(url) == trusted:
        return address.host
    port = address.port or (443 if address.scheme == "https" else 80)
    return await resolve(address.host, port, settings.outbound_networks)


async def _follow(
    client: "httpx.AsyncClient", source: Source, target: Path, max_bytes: int, settings: ServerSettings
) -> Download:
    import httpx

    url, resumed = source.url, await on_disk(_resumed, target)
    for _ in range(1 + MAX_REDIRECTS):
        checked = await check_address(url, settings, source.trusted)
        address = httpx.URL(url)
        headers = resumed | {
            "Host": address.netloc.decode("ascii"),
            "User-Agent": "rvc-train",
            "Accept-Encoding": "identity",  # or a small body could unpack to any size
        }
        if source.token is not None and origin_of(url) == source.trusted:
            headers["Authorization"] = f"Bearer {source.token}"
        request = client.build_request(
            "GET",
            address.copy_with(host=checked),
            headers=headers,
            extensions={"sni_hostname": address.host},  # the certificate is checked against the host name
        )
        response = await _answer(client, request, url)
        try:
            if response.has_redirect_location:
                url = str(address.join(response.headers["Location"]))
                continue
            await _check_status(response, url, target)
            source.check(response.headers)
            size = await _receive(response, source, target, max_bytes)
            return Download(url, size, response.headers)
        finally:
            await response.aclose()
    raise Refused(f"the address redirects more than {MAX_REDIRECTS} times; give the file's own address")


async def _answer(client: "httpx.AsyncClient", request: "httpx.Request", url: str) -> "httpx.Response":
    """The answer with its headers, in time. Raises Interrupted."""
    try:
        with anyio.fail_after(HEAD_SECONDS):
            return await client.send(request, stream=True)
    except TimeoutError as error:
        raise Interrupted(f"{host_of(url)} sent no answer in {HEAD_SECONDS:.0f} s; try again later") from error


async def _check_status(response: "httpx.Response", url: str, target: Path) -> None:
    status = response.status_code
    if status == 416:  # the file is another one now, or the part is all of it
        await on_disk(discard, target)
        raise Interrupted(f"{host_of(url)} has another file at this address now; try again")
    if status in _MAY_PASS or status >= 500:
        raise Interrupted(f"{host_of(url)} answered {status}; try again later")
    if not response.is_success:
        raise Refused(f"{host_of(url)} answered {status}; check the address")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise Refused(f"{host_of(url)} sends the file compressed, unasked; give another address")


async def _receive(response: "httpx.Response", source: Source, target: Path, max_bytes: int) -> int:
    start = await on_disk(_prepared, response, target)
    announced = response.headers.get("Content-Length", "")
    total = start + int(announced) if announced.isdecimal() else None
    if total is not None and total > max_bytes:
        raise _too_large(max_bytes)
    received, paced, buffer = start, (anyio.current_time(), start), bytearray()
    await source.watch(received, total)
    file = await on_disk(target.open, "ab")
    try:
        async for block in response.aiter_raw():
            received += len(block)
            if received > max_bytes:
                raise _too_large(max_bytes)
            buffer += block
            if len(buffer) >= _BLOCK:
                data, buffer = bytes(buffer), bytearray()
                await on_disk(file.write, data)
            await source.watch(received, total)
            paced = _checked_pace(paced, received)
    finally:
        with anyio.CancelScope(shield=True):  # what has come is kept, to go on from
            await on_disk(_close, file, bytes(buffer))
    if total is not None and received != total:
        raise Interrupted(f"the download ended after {received} of {total} bytes; try again")
    await on_disk(_etag_file(target).unlink, True)
    return received


def _checked_pace(paced: tuple[float, int], received: int) -> tuple[float, int]:
    """Time and bytes at the start of the present stretch. Raises Refused after one that was too slow."""
    seconds = anyio.current_time() - paced[0]
    if seconds < PACE_SECONDS:
        return paced
    if received - paced[1] < LEAST_BYTES_PER_SECOND * seconds:
        raise Refused(f"the download received less than {LEAST_BYTES_PER_SECOND} bytes a second for minutes")
    return anyio.current_time(), received


def _close(file: BinaryIO, rest: bytes) -> None:
    with file:
        file.write(rest)


def _etag_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.etag")


def _resumed(target: Path) -> dict[str, str]:
    """Headers that ask for the rest of a partial download; empty where it cannot be known to be of the same file."""
    try:
        etag, size = _etag_file(target).read_text("ascii"), target.stat().st_size
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    return {"Range": f"bytes={size}-", "If-Range": etag} if etag and size else {}


def _prepared(response: "httpx.Response", target: Path) -> int:
    """Cut the target to the bytes that the response continues, which are returned, and keep the file's ETag."""
    start = 0
    if response.status_code == 206:
        start = target.stat().st_size if target.exists() else 0  # sent without having been asked for
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            discard(target)
            raise Interrupted(f"{host_of(str(response.url))} sent another part of the file than the missing one")
    else:
        target.write_bytes(b"")
        etag: str = response.headers.get("ETag", "")
        is_strong = etag.startswith('"') and etag.isascii() and etag.isprintable()
        _etag_file(target).write_text(etag if is_strong else "", "ascii")
    return start


def discard(target: Path) -> None:
    """Delete a partial download."""
    target.unlink(missing_ok=True)
    _etag_file(target).unlink(missing_ok=True)


def _too_large(max_bytes: int) -> Refused:
    return Refused(f"the file has more than the {max_bytes / 1e6:,.1f} MB that there is room for")


def host_of(url: str) -> str:
    """The host of a URL, for messages."""
    try:
        return urlsplit(url).hostname or "the address"
    except ValueError:
        return "the address"


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, such as `https://huggingface.co`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
