"""Routes of resumable uploads: tus 1.0.0 with creation, checksum, expiration and termination."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Path, Request, Response

from rvc_train.schemas.access import Scope
from server.api.authorization import require_principal, requires
from server.context import MAX_INTEGER, AppContext, Context
from server.database.tables import Upload
from server.errors import ChecksumMismatch, Conflict, OffsetMismatch, Refused, UnsupportedMedia, UnsupportedTus
from server.http.problem_details import TUS_VERSION, documented
from server.http.threads import on_disk
from server.uploads.receive import StreamedBody

router = APIRouter(prefix="/uploads", tags=["uploads"])

EXTENSIONS = "creation,checksum,expiration,termination"
CHUNK_TYPE = "application/offset+octet-stream"
_DIGESTS = {"sha256": hashlib.sha256, "sha1": hashlib.sha1, "md5": hashlib.md5}

UploadId = Annotated[str, Path(pattern="^upl_[0-9a-f]{32}$")]
TusResumable = Annotated[
    str | None,
    Header(description="Version of the protocol; 412 for others.", json_schema_extra={"const": TUS_VERSION}),
]

_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bytes from `Upload-Offset` on.",
        "content": {CHUNK_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _check_tus_version(version: str | None) -> None:
    if version != TUS_VERSION:
        raise UnsupportedTus(f"send the header Tus-Resumable: {TUS_VERSION}; this server supports no other version")


def _headers(response: Response, context: AppContext, expires_at: datetime | None = None) -> None:
    response.headers["Tus-Resumable"] = TUS_VERSION
    response.headers["Cache-Control"] = "no-store"
    if expires_at is not None:
        response.headers["Upload-Expires"] = format_datetime(expires_at, usegmt=True)


@router.options("", operation_id="uploads_get_options", status_code=204)
@requires(Scope.READ)
def tus_options(response: Response, context: Context) -> None:
    """Get the server's tus version, extensions and limits."""
    _headers(response, context)
    response.headers["Tus-Version"] = TUS_VERSION
    response.headers["Tus-Extension"] = EXTENSIONS
    response.headers["Tus-Max-Size"] = str(context.settings.max_upload_bytes)
    response.headers["Tus-Checksum-Algorithm"] = ",".join(_DIGESTS)


@router.post("", operation_id="uploads_create", status_code=201, responses=documented(412, 413, 422, 507))
@requires(Scope.SUBMIT)
async def create_upload(
    response: Response,
    context: Context,
    upload_length: Annotated[int, Header(ge=1, le=MAX_INTEGER, description="Bytes of the whole upload.")],
    upload_metadata: Annotated[str, Header(max_length=4096, description="As in tus; returned by HEAD.")] = "",
    tus_resumable: TusResumable = None,
) -> None:
    """Create an upload; its address is in `Location`. Then send its bytes with PATCH, in any number of chunks."""
    _check_tus_version(tus_resumable)
    upload = await on_disk(context.uploads.create, require_principal().owner, upload_length, upload_metadata)
    _headers(response, context, upload.expires_at)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"


@router.head("/{upload_id}", operation_id="uploads_get_offset", responses=documented(404, 410, 412))
@requires(Scope.READ)
async def get_offset(
    upload_id: UploadId, response: Response, context: Context, tus_resumable: TusResumable = None
) -> None:
    """Get the number of received bytes in `Upload-Offset`. Ends a PATCH of the same upload that is still running."""
    _check_tus_version(tus_resumable)
    await on_disk(context.uploads.get, None, upload_id)
    async with context.upload_locks.exclusive(upload_id):
        upload, offset = await on_disk(_find, context, upload_id)
    _headers(response, context, upload.expires_at)
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Length"] = str(upload.length)
    if upload.tus_metadata:
        response.headers["Upload-Metadata"] = upload.tus_metadata


@router.patch(
    "/{upload_id}",
    operation_id="uploads_append",
    status_code=204,
    openapi_extra=_BODY,
    responses=documented(404, 408, 409, 410, 412, 413, 415, 422, 460, 507),
)
@requires(Scope.SUBMIT)
async def receive_chunk(
    upload_id: UploadId,
    request: Request,
    response: Response,
    context: Context,
    upload_offset: Annotated[int, Header(ge=0, le=MAX_INTEGER, description="Offset of the chunk.")],
    upload_checksum: Annotated[
        str | None, Header(max_length=200, description="`sha256`, `sha1` or `md5`, a space, the base64 of the digest.")
    ] = None,
    tus_resumable: TusResumable = None,
) -> None:
    """Append a chunk. After a broken connection its bytes are kept; with a checksum, only a complete chunk is kept."""
    _check_tus_version(tus_resumable)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CHUNK_TYPE:
        raise UnsupportedMedia(f"send the chunk with the header Content-Type: {CHUNK_TYPE}")
    checksum = None if upload_checksum is None else _Checksum.parse(upload_checksum)
    await on_disk(context.uploads.get, None, upload_id)
    async with context.upload_locks.exclusive(upload_id):
        upload, offset = await on_disk(_find, context, upload_id)
        if upload_offset != offset:
            raise OffsetMismatch(f"the server has {offset} bytes; continue at that offset", offset)
        watch = partial(context.uploads.watch, upload_id)
        check = _limited_to(upload.length - offset)
        body = StreamedBody(request, context.settings.upload_idle_seconds, check, lambda size: watch(offset + size))
        with context.open_uploads.hold(require_principal().owner):
            expires_at = await _append(context, upload_id, offset, body, checksum)
    _headers(response, context, expires_at)
    response.headers["Upload-Offset"] = str(offset + body.size)


@router.delete("/{upload_id}", operation_id="uploads_delete", status_code=204, responses=documented(404, 409, 410, 412))
@requires(Scope.SUBMIT)
async def delete_upload(
    upload_id: UploadId, response: Response, context: Context, tus_resumable: TusResumable = None
) -> None:
    """Delete an upload and its bytes. 409 while a dataset is made of it: delete that one."""
    _check_tus_version(tus_resumable)
    await on_disk(context.uploads.get, None, upload_id)
    async with context.upload_locks.exclusive(upload_id):
        await on_disk(context.uploads.delete, None, upload_id)
    _headers(response, context)


def _find(context: AppContext, upload_id: str) -> tuple[Upload, int]:
    upload = context.uploads.get(None, upload_id)
    return upload, context.uploads.offset(upload)


@dataclass(frozen=True)
class _Checksum:
    """Digest that a chunk must have."""

    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, header: str) -> "_Checksum":
        algorithm, _, text = header.partition(" ")
        if algorithm not in _DIGESTS:
            raise Refused(f"Upload-Checksum: {algorithm!r} is not supported; use {', '.join(_DIGESTS)}")
        try:
            return cls(algorithm, base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise Refused(f"Upload-Checksum: the digest is not valid base64 ({error})") from error


async def _append(
    context: AppContext, upload_id: str, offset: int, body: StreamedBody, checksum: _Checksum | None
) -> datetime:
    """Append a chunk to the file; returns the new expiry. ChecksumMismatch, and the errors of `StreamedBody.write`.

    With a checksum, the row keeps the offset before the chunk until the chunk is verified.
    """
    await on_disk(context.uploads.begin_chunk, upload_id, offset, None if checksum is None else offset)
    whole = context.uploads.digest_so_far(upload_id, offset)
    chunk = None if checksum is None else _DIGESTS[checksum.algorithm](usedforsecurity=False)
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
