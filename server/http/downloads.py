"""Files as HTTP responses, with ranges and conditional requests (RFC 9110, 13 and 14), and several files as one zip.

Starlette's `FileResponse` is not used for them, because it reads to the end of the file whatever length it announced,
and a job's log grows while it is sent. It also answers malformed ranges with 400 instead of ignoring them, 416 without
problem details, ranges of a HEAD request with 206, and has no `If-None-Match`.
"""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from zipstream import ZIP_STORED, ZipStream

from server.errors import RangeNotSatisfiable
from server.http.etags import matches_weakly
from server.http.threads import on_disk

_CHUNK = 1 << 18
_RANGE = re.compile(r"^bytes=\s*(\d{0,18})-(\d{0,18})\s*$")
"""A single range. Numbers of 19 digits and more exceed any file: such a header is ignored."""


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


def content_disposition(name: str) -> str:
    """`attachment` with an ASCII name for old clients and the full name in `filename*` (RFC 6266)."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def file_response(
    request: Request,
    path: Path,
    size: int,
    *,
    media_type: str,
    etag: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The first `size` bytes of a file, or the requested range, or 304. `etag`: a strong tag, with its quotes."""
    headers = {"Accept-Ranges": "bytes", **(headers or {})}
    if etag is not None:
        headers["ETag"] = etag
        if matches_weakly(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
    if_range = request.headers.get("if-range")
    has_range = request.method == "GET" and (if_range is None or if_range == etag)  # ranges are defined for GET only
    span = parse_range(request.headers.get("range"), size) if has_range else None
    if span is None:
        return span_response(request, path, Span(0, size), headers=headers, media_type=media_type)
    headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    return span_response(request, path, span, headers=headers, media_type=media_type, status=206)


def span_response(
    request: Request, path: Path, span: Span, *, headers: dict[str, str], media_type: str, status: int = 200
) -> Response:
    """The bytes of a span of the file; for HEAD, only their headers."""
    headers = {**headers, "Content-Length": str(span.end - span.start)}
    if request.method == "HEAD" or span.end == span.start:
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_read(path, span), status, headers, media_type)


async def _read(path: Path, span: Span) -> AsyncIterator[bytes]:
    num_left = span.end - span.start
    file = await on_disk(path.open, "rb")
    try:
        await on_disk(file.seek, span.start)
        while num_left > 0:
            chunk = await on_disk(file.read, min(_CHUNK, num_left))
            if not chunk:
                return  # the file shrank: the client notices by `Content-Length`
            num_left -= len(chunk)
            yield chunk
    finally:
        file.close()  # nothing was written: closing does not wait


def zip_of(files: Sequence[tuple[Path, str]]) -> tuple[AsyncIterator[bytes], int]:
    """Chunks of an uncompressed zip of these files by name, generated while it is sent, and its size in bytes."""
    stream = ZipStream(compress_type=ZIP_STORED, sized=True)
    for path, name in files:
        stream.add_path(path, name)
    return _chunks(iter(stream)), len(stream)


async def _chunks(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await on_disk(next, chunks, None)) is not None:
        yield chunk
