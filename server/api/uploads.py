"""Routes of resumable uploads: tus 1.0.0 with the extensions in `server.uploads.protocol`."""

import hmac
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Header, Request, Response

from rvc_train.schemas.access import Scope
from server.api.authorization import require_principal, requires
from server.context import MAX_INTEGER, AppContext, Context
from server.database.tables import Upload
from server.errors import ChecksumMismatch, Conflict, OffsetMismatch, Refused, UnsupportedMedia
from server.http.prefix import RouterUnderV1
from server.http.problem_details import TUS_VERSION, documented
from server.http.threads import on_disk
from server.middleware.media_types import has_body
from server.uploads.protocol import (
    ADDRESS,
    CHUNK_TYPE,
    CHUNK_TYPES,
    DIGESTS,
    EXTENSIONS,
    Checksum,
    checked_metadata,
    refuse_other_extensions,
)
from server.uploads.receive import StreamedBody

router = RouterUnderV1(prefix="/uploads", tags=["uploads"])
options = APIRouter(prefix=ADDRESS, tags=["uploads"])
"""Outside `check_access`: OPTIONS needs no token."""

UploadChecksum = Annotated[
    str | None, Header(max_length=200, description="`sha256`, `sha1` or `md5`, a space, the base64 of the digest.")
]


def _with_chunk(description: str, *, required: bool) -> dict[str, object]:
    """Documentation of a route that may receive a chunk."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in sorted(CHUNK_TYPES)}
    return {"requestBody": {"required": required, "description": description, "content": content}}


def _headers(expires_at: datetime, **headers: str) -> dict[str, str]:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"Upload-Expires": format_datetime(expires_at, usegmt=True), **more}


@options.options("", operation_id="uploads_get_options", status_code=204, response_class=Response)
@options.options("/{upload_id}", status_code=204, response_class=Response, include_in_schema=False)
def tus_options(context: Context) -> Response:
    """Get the server's tus version, extensions and limits. Needs no token."""
    headers = {
        "Tus-Version": TUS_VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(context.settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(DIGESTS),
    }
    return Response(status_code=204, headers=headers)


async def _refuse_other_extensions(request: Request) -> None:  # a dependency: before missing headers are refused
    refuse_other_extensions(request.headers)


@router.post(
    "",
    operation_id="uploads_create",
    status_code=201,
    response_class=Response,
    openapi_extra=_with_chunk("The first bytes, if any are sent at once.", required=False),
    responses=documented(400, 408, 412, 413, 415, 422, 429, 460, 507),
    dependencies=[Depends(_refuse_other_extensions)],
)
@requires(Scope.SUBMIT)
async def create_upload(
    request: Request,
    context: Context,
    upload_length: Annotated[int, Header(ge=0, le=MAX_INTEGER, description="Bytes of the whole upload.")],
    upload_metadata: Annotated[str, Header(max_length=4096, description="As in tus; returned by HEAD.")] = "",
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Create an upload; its address is in `Location`. Then send its bytes with PATCH, in chunks of any size.

    The first chunk may be the body of this request. If it does not arrive complete, no upload is created.
    """
    if upload_length == 0:
        raise Refused("the file is empty; choose one with recordings", header="Upload-Length")
    metadata = checked_metadata(upload_metadata)
    has_chunk = has_body(request.headers)
    checksum = _checked_chunk(request, upload_checksum) if has_chunk else None
    upload = await on_disk(context.uploads.create, require_principal().owner, upload_length, metadata)
    headers = _headers(upload.expires_at)
    if has_chunk:
        try:
            headers = await _receive(request, context, upload.id, 0, checksum)
        except BaseException:  # the address is in no answer, so no client can go on
            with anyio.CancelScope(shield=True):
                await on_disk(context.uploads.delete, None, upload.id)
            raise
    return Response(status_code=201, headers={**headers, "Location": f"{ADDRESS}/{upload.id}"})


@router.head(
    "/{upload_id}",
    operation_id="uploads_get_offset",
    response_class=Response,
    responses=documented(404, 410, 412),
)
@requires(Scope.READ)
async def get_offset(upload_id: str, context: Context) -> Response:
    """Get the number of received bytes in `Upload-Offset`. A chunk that is being received goes on."""
    upload = await on_disk(context.uploads.get, None, upload_id)
    offset = await context.upload_locks.offset(upload_id, upload.length)
    if offset is None:
        upload = await on_disk(context.uploads.get, None, upload_id)
        offset = await on_disk(context.uploads.offset, upload)
    headers = _headers(upload.expires_at, Upload_Offset=str(offset), Upload_Length=str(upload.length))
    if upload.tus_metadata:
        headers["Upload-Metadata"] = upload.tus_metadata
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload_id}",
    operation_id="uploads_append",
    status_code=204,
    response_class=Response,
    openapi_extra=_with_chunk("The bytes from `Upload-Offset` on.", required=True),
    responses=documented(400, 404, 408, 409, 410, 412, 413, 415, 422, 460, 507),
)
@requires(Scope.SUBMIT)
async def receive_chunk(
    upload_id: str,
    request: Request,
    context: Context,
    upload_offset: Annotated[int, Header(ge=0, le=MAX_INTEGER, description="Offset of the chunk.")],
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Append a chunk. After a broken connection its bytes are kept; with a checksum, only a complete chunk is kept.

    Ends a request that is still sending an earlier chunk of the same upload.
    """
    checksum = _checked_chunk(request, upload_checksum)
    await on_disk(context.uploads.get, None, upload_id)
    return Response(status_code=204, headers=await _receive(request, context, upload_id, upload_offset, checksum))


@router.delete(
    "/{upload_id}",
    operation_id="uploads_delete",
    status_code=204,
    response_class=Response,
    responses=documented(404, 409, 410, 412),
)
@requires(Scope.SUBMIT)
async def delete_upload(upload_id: str, context: Context) -> Response:
    """Delete an upload and its bytes. 409 while a dataset is made of it: delete that one."""
    await on_disk(context.uploads.get, None, upload_id)
    async with context.upload_locks.exclusive(upload_id):
        await on_disk(context.uploads.delete, None, upload_id)
    return Response(status_code=204)


def _checked_chunk(request: Request, upload_checksum: str | None) -> Checksum | None:
    """The checksum of a request with a chunk. Raises UnsupportedMedia, UnsupportedChecksum, Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in CHUNK_TYPES:
        raise UnsupportedMedia(f"send the chunk with the header Content-Type: {CHUNK_TYPE}")
    return None if upload_checksum is None else Checksum.parse(upload_checksum)


async def _receive(
    request: Request, context: AppContext, upload_id: str, at: int, checksum: Checksum | None
) -> dict[str, str]:
    """Append the body of a request to an upload; returns the headers of the response. Raises OffsetMismatch, Conflict.

    Raises TooManyRequests, and the errors of `_append`.
    """
    async with context.upload_locks.exclusive(upload_id) as lock:
        upload, offset = await on_disk(_find, context, upload_id)
        if at != offset:
            raise OffsetMismatch(f"the server has {offset} bytes; continue at that offset", offset)
        watch = partial(context.uploads.watch, upload_id)
        check = _limited_to(upload.length - offset)
        body = StreamedBody(request, context.settings.upload_idle_seconds, check, lambda size: watch(offset + size))
        with context.open_uploads.hold(require_principal().owner):
            lock.offset = lambda: min(offset + body.size, upload.length) if checksum is None else offset
            expires_at = await _append(context, upload_id, offset, body, checksum)
    return _headers(expires_at, Upload_Offset=str(offset + body.size))


def _find(context: AppContext, upload_id: str) -> tuple[Upload, int]:
    upload = context.uploads.get(None, upload_id)
    return upload, context.uploads.cut_off_unverified(upload)


async def _append(
    context: AppContext, upload_id: str, offset: int, body: StreamedBody, checksum: Checksum | None
) -> datetime:
    """Append a chunk to the file; returns the new expiry. ChecksumMismatch, and the errors of `StreamedBody.write`.

    With a checksum, the row keeps the offset before the chunk until the chunk is verified.
    """
    await on_disk(context.uploads.begin_chunk, upload_id, offset, None if checksum is None else offset)
    whole = context.uploads.digest_so_far(upload_id, offset)
    chunk = None if checksum is None else DIGESTS[checksum.algorithm](usedforsecurity=False)
    digests = [digest for digest in (whole, chunk) if digest is not None]
    try:
        await body.write(context.uploads.path(upload_id), *digests, append=True)
    except BaseException:
        if checksum is None:
            with anyio.CancelScope(shield=True):
                await on_disk(context.uploads.end_chunk, upload_id)
        raise
    if checksum is not None and chunk is not None and not hmac.compare_digest(chunk.digest(), checksum.digest):
        raise ChecksumMismatch(f"the chunk does not match its {checksum.algorithm} checksum; send it again")
    return await on_disk(context.uploads.end_chunk, upload_id, whole)


def _limited_to(max_bytes: int) -> Callable[[int], None]:
    def check(size: int) -> None:
        if size > max_bytes:
            raise Conflict("the chunk exceeds the upload's length; create a new upload with the right length")

    return check
