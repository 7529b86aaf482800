"""Files as HTTP responses, with ranges and conditional requests (RFC 9110, 13 and 14), and several files as one zip.

Starlette's `FileResponse` is not used for them, because it reads to the end of the file whatever length it announced,
and a job's log grows while it is sent. It also answers malformed ranges with 400 instead of ignoring them, 416 without
problem details, and has no `If-Match` and `If-None-Match`.
"""

import base64
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate, mktime_tz, parsedate_tz
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from zipstream import ZIP_STORED, ZipStream

from server.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from server.http.etags import matches_strongly, matches_weakly
from server.http.threads import on_disk

_CHUNK = 1 << 18
_RANGE = re.compile(r"^bytes=\s*(\d{0,400})-(\d{0,400})\s*$", re.ASCII | re.IGNORECASE)
"""A single range, with numbers that may exceed any file; Python refuses to parse those of thousands of digits."""


@dataclass(frozen=True)
class Span:
    """Bytes from `start` up to but not including `end`."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> Span | None:
    """The single range of a `Range` header; None without a header, or with one that a server may ignore.

    Raises RangeNotSatisfiable when the range lies beyond the end.
    """
    match = _RANGE.match(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or end <= start:
        raise RangeNotSatisfiable(f"the file has {size} bytes; the range {header!r} is beyond its end", size)
    return Span(start, end)


class Readable(Protocol):
    """A file that is sent: a `Path`, or one elsewhere."""

    def stat(self) -> os.stat_result:
        """Size and time of change. FileNotFoundError."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Open it for reading. FileNotFoundError."""


def file_response(
    request: Request,
    path: Readable,
    size: int,
    *,
    media_type: str,
    sha256: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The first `size` bytes of a file, or the requested range, or 304.

    `sha256`: of a file that never changes, in hexadecimal; its ETag and `Repr-Digest` (RFC 9530). Such a file has
    `Last-Modified` too. Raises RangeNotSatisfiable, NotFound, and PreconditionFailed for another `If-Match`.
    """
    headers = {"Accept-Ranges": "bytes", **(headers or {})}
    etag = None
    if sha256 is not None:
        etag = headers["ETag"] = f'"{sha256}"'
        headers["Repr-Digest"] = repr_digest(sha256)
        with deleted_as_not_found():
            modified_at = int(path.stat().st_mtime)
        headers["Last-Modified"] = formatdate(modified_at, usegmt=True)
        if not matches_strongly(request.headers.get("if-match"), etag):
            raise PreconditionFailed("the file is another one than in If-Match; get it without that header")
        if _is_unchanged(request, etag, modified_at):
            return Response(status_code=304, headers=headers)
    if_range = request.headers.get("if-range")
    span = parse_range(request.headers.get("range"), size) if if_range is None or if_range == etag else None
    if span is None:
        return span_response(path, Span(0, size), headers=headers, media_type=media_type)
    headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    return span_response(path, span, headers=headers, media_type=media_type, status=206)


def repr_digest(sha256: str) -> str:
    """The header `Repr-Digest` (RFC 9530) of a file with a sha256 in hexadecimal."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _is_unchanged(request: Request, etag: str, modified_at: int) -> bool:
    """Whether the caller has the file, by `If-None-Match` or, without it, `If-Modified-Since`."""
    known = request.headers.get("if-none-match")
    if known is not None:
        return matches_weakly(known, etag)
    since = parsedate_tz(request.headers.get("if-modified-since", ""))
    try:
        return since is not None and modified_at <= mktime_tz(since)
    except (ValueError, OverflowError):  # of a year that no calendar has
        return False


def span_response(
    path: Readable, span: Span, *, headers: dict[str, str], media_type: str, status: int = 200
) -> Response:
    """The bytes of a span of the file, which is opened at once. Raises NotFound for one that was just deleted."""
    headers = {**headers, "Content-Length": str(span.end - span.start)}
    if span.end == span.start:
        return Response(status_code=status, headers=headers, media_type=media_type)
    with deleted_as_not_found():
        return _SpanResponse(path.open("rb"), span, status, headers, media_type)


@contextmanager
def deleted_as_not_found() -> Iterator[None]:
    """Translate the error for a file that was deleted after its row was read to NotFound."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound("the file was deleted a moment ago, with what it belonged to") from error


class _SpanResponse(StreamingResponse):
    """Response with a span of an open file, closed at its end, also of one that is not sent to the end."""

    def __init__(self, file: BinaryIO, span: Span, status: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(_read(file, span), status, headers, media_type)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()  # nothing was written: closing does not wait


async def _read(file: BinaryIO, span: Span) -> AsyncIterator[bytes]:
    num_left = span.end - span.start
    await on_disk(file.seek, span.start)
    while num_left > 0:
        chunk = await on_disk(file.read, min(_CHUNK, num_left))
        if not chunk:
            return  # the file shrank: the client notices by `Content-Length`
        num_left -= len(chunk)
        yield chunk


def zip_of(files: Sequence[tuple[Path, str]]) -> tuple[AsyncIterator[bytes], int]:
    """Chunks of an uncompressed zip of these files by name, generated while it is sent, and its size in bytes."""
    stream = ZipStream(compress_type=ZIP_STORED, sized=True)
    for path, name in files:
        stream.add_path(path, name)
    return chunks_of(stream), len(stream)


async def chunks_of(stream: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Chunks of a zip, each made when it is sent."""
    chunks = iter(stream)
    while (chunk := await on_disk(next, chunks, None)) is not None:
        yield chunk
