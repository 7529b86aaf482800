"""Files of leases as bodies: sent with ranges, and received from an offset on."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request, Response

from rvc_train.schemas.work.leases import FileReceived
from rvc_train.schemas.work.workers import WorkFile
from server.context import MAX_INTEGER, AppContext
from server.errors import Conflict, OffsetMismatch
from server.http.downloads import file_response
from server.http.problem_details import documented
from server.http.threads import on_disk
from server.remote_workers.files import MAX_FILE_BYTES, IncomingFiles
from server.uploads.receive import StreamedBody

_BINARY = "application/octet-stream"
_BODY = {"schema": {"type": "string", "format": "binary"}}
DOWNLOAD: dict[str, Any] = {
    "response_class": Response,
    "responses": documented(
        412,
        416,
        also={
            200: {"content": {_BINARY: {}}, "description": "The file"},
            206: {"content": {_BINARY: {}}, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
}
UPLOAD: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {"required": True, "description": "The bytes from `offset` on.", "content": {_BINARY: _BODY}}
    },
    "responses": documented(408, 409, 413, 415, 460, 507),
}
Offset = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Bytes that the server has: the first that is sent.")]
Size = Annotated[int, Query(ge=0, le=MAX_FILE_BYTES, description="Bytes of the whole file.")]


async def download(request: Request, path: Path, file: WorkFile) -> Response:
    """The file, or the requested range of it."""
    respond = partial(file_response, request, path, file.size_bytes, media_type=_BINARY, sha256=file.sha256)
    return await on_disk(respond)


async def receive(
    request: Request, context: AppContext, incoming: IncomingFiles, lock: str, sha256: str, offset: int, size: int
) -> FileReceived:
    """Append the body to a file that is being received, and check it at its end.

    The newest request for a file ends the one before. Raises OffsetMismatch, Conflict, ChecksumMismatch, NoSpace,
    LeaseLost, and the errors of `StreamedBody.write`.
    """

    def check(received: int) -> None:
        if offset + received > size:
            raise Conflict(f"more bytes came than the {size} of the file; send it again from the start")

    async with context.upload_locks.exclusive(lock):
        await on_disk(incoming.begin)
        received = await on_disk(incoming.received, sha256)
        if offset != received:
            raise OffsetMismatch(f"the server has {received} bytes; continue at that offset", received)
        body = StreamedBody(
            request, context.settings.upload_idle_seconds, check, lambda _: context.reservations.check_reserve()
        )
        await body.write(incoming.partial(sha256), append=True)
        received += body.size
        if received == size:
            await on_disk(incoming.finish, sha256)
    return FileReceived(received_bytes=received, is_complete=received == size)
