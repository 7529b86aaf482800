"""Routes of conversions: submit, list, get, cancel, delete."""

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from rvc_engine.config import PitchEstimator
from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.voices.conversions import (
    AudioFormat,
    ConversionCreate,
    ConversionOptions,
    ConversionPublic,
    ConversionStatus,
    PitchShift,
    Save,
)
from server.api.authorization import OwnerFilter, VoiceOwner, require_principal, requires
from server.api.voices.names import VoiceNameInPath, key_in_path
from server.context import AppContext, Context
from server.conversions.serializers import conversion_public
from server.conversions.service import Recording, Wanted, plain_name
from server.database.tables import Conversion, Upload
from server.errors import Conflict
from server.http.etags import TAGGED, UNCHANGED, IfNoneMatch, tagged_json
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.threads import on_disk, to_write
from server.uploads.receive import StreamedBody

router = APIRouter()
conversions = RouterUnderV1(prefix="/conversions", tags=["conversions"])
of_voice = RouterUnderV1(prefix="/voices", tags=["conversions"])

_CURSORS: Cursors[int] = Cursors("conversions")
ConversionId = Annotated[str, Path(max_length=64)]
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One recording, in any audio format.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@of_voice.post(
    "/{name:path}/conversions",
    operation_id="conversions_create",
    status_code=202,
    responses=documented(404, 409, 410, 413, 422, 429, 507),
)
@requires(Scope.SUBMIT)
async def create_conversion(
    name: VoiceNameInPath, owner: VoiceOwner, request: ConversionCreate, response: Response, context: Context
) -> ConversionPublic:
    """Convert uploaded recordings with a voice: the finished one, or a save of a job that may still run.

    A worker takes it ahead of jobs, and beside a running one.
    """
    principal = require_principal()
    options = ConversionOptions.model_validate(request.model_dump(include=set(ConversionOptions.model_fields)))
    wanted = Wanted(key_in_path(owner, name), request.job_id, request.save, options)
    await on_disk(context.conversions.refuse_unknown, wanted)
    uploads = [await to_write(_complete, context, principal.visible_owner, upload_id) for upload_id in request.uploads]
    return await _submitted(context, response, wanted, uploads)


# Long because each option is a parameter.
@of_voice.put(
    "/{name:path}/conversions/content",
    operation_id="conversions_upload",
    status_code=202,
    openapi_extra=_BODY,
    responses=documented(404, 408, 409, 410, 413, 422, 429, 507),
)
@requires(Scope.SUBMIT)
async def upload_conversion(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    request: Request,
    response: Response,
    context: Context,
    filename: Annotated[str, Query(max_length=400, description="Name of the recording.")] = "recording",
    job_id: Annotated[str | None, Query(max_length=64, description="As in the body of `conversions_create`.")] = None,
    save: Annotated[Save | None, Query(description="As in the body.")] = None,
    pitch_shift: Annotated[PitchShift, Query(description="As in the body.")] = 0.0,
    pitch: Annotated[PitchEstimator, Query(description="As in the body.")] = "swift",
    index_rate: Annotated[float, Query(ge=0, le=1, description="As in the body.")] = 0.75,
    protect: Annotated[float, Query(ge=0, le=0.5, description="As in the body.")] = 0.33,
    rms_mix_rate: Annotated[float, Query(ge=0, le=1, description="As in the body.")] = 0.25,
    audio_format: Annotated[AudioFormat, Query(alias="format", description="As in the body.")] = "wav",
    speaker: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$", description="As in the body.")] = "",
) -> ConversionPublic:
    """Convert one recording with a voice, sent as the raw body: `curl -T in.wav`. Each request is a new conversion."""
    principal, service = require_principal(), context.conversions
    options = ConversionOptions(
        pitch_shift=pitch_shift,
        pitch=pitch,
        index_rate=index_rate,
        protect=protect,
        rms_mix_rate=rms_mix_rate,
        format=audio_format,
        speaker=speaker,
    )
    wanted = Wanted(key_in_path(owner, name), job_id, save, options)
    header = request.headers.get("content-length", "")
    length = int(header) if header.isdecimal() else 0
    service.check_size(length)
    await on_disk(service.refuse_unknown, wanted)
    async with _received(context, request, length, principal.owner) as upload:
        return await _submitted(context, response, wanted, [upload], plain_name(filename))


@asynccontextmanager
async def _received(context: AppContext, request: Request, length: int, owner: str) -> AsyncIterator[Upload]:
    """The body of a request as an upload, which is deleted at the end."""
    uploads = context.uploads
    upload = await on_disk(partial(uploads.create, owner, max(1, length), "", is_resumable=False))
    try:
        digest = hashlib.sha256()
        idle, check = context.settings.upload_idle_seconds, context.conversions.check_size
        body = StreamedBody(request, idle, check, partial(uploads.watch, upload.id))
        with context.open_uploads.hold(owner):
            await body.write(uploads.path(upload.id), digest)
        yield await on_disk(uploads.finish, upload.id, body.size, digest.hexdigest())
    finally:
        with anyio.CancelScope(shield=True):
            await on_disk(uploads.discard, upload.id)


def _complete(context: AppContext, visible_owner: str | None, upload_id: str) -> Upload:
    upload = context.uploads.require_complete(visible_owner, upload_id)
    if upload.dataset_id is not None:
        raise Conflict(f"the upload {upload.id} has become the dataset {upload.dataset_id}; send the file again")
    return upload


async def _submitted(
    context: AppContext, response: Response, wanted: Wanted, uploads: Sequence[Upload], name: str | None = None
) -> ConversionPublic:
    """Submit complete uploads, which are deleted once their bytes are the conversion's."""
    recordings = [
        Recording(context.uploads.path(upload.id), _name_of(upload) if name is None else name) for upload in uploads
    ]
    row = await on_disk(_submit, context, wanted, recordings)
    for upload in uploads:
        await on_disk(context.uploads.discard, upload.id)
    response.headers["Location"] = f"/v1/conversions/{row.id}"
    return _public(context, row)


def _submit(context: AppContext, wanted: Wanted, recordings: Sequence[Recording]) -> Conversion:
    with context.storage.incoming_folder() as folder:
        made = folder / "conversion"
        made.mkdir()
        return context.conversions.submit(require_principal().owner, wanted, recordings, made)


def _name_of(upload: Upload) -> str:
    """The name of the file in the metadata of an upload, as clients of tus send it."""
    pairs = (pair.strip().partition(" ") for pair in upload.tus_metadata.split(","))
    values = {key: value for key, _, value in pairs}
    text = base64.b64decode(values.get("filename") or values.get("name") or "").decode(errors="replace")
    return plain_name(text)


def _public(context: AppContext, row: Conversion) -> ConversionPublic:
    reason = context.conversions.waiting_reasons([row]).get(row.id)
    return conversion_public(row, reason, context.conversions.keep)


@conversions.get("", operation_id="conversions_list", responses=documented(422))
@requires(Scope.READ)
def list_conversions(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[int | None, Depends(_CURSORS)],
    voice: Annotated[str | None, Query(max_length=200, description="Only with the voice of this name.")] = None,
    status: Annotated[
        list[ConversionStatus] | None, Query(description="Only with this status; may be repeated.")
    ] = None,
    limit: Limit = 20,
) -> Page[ConversionPublic]:
    """List your conversions, newest first. They are deleted some time after their end."""
    service = context.conversions
    rows, last = service.list(owner_filter, voice, status or (), after, limit)
    reasons = service.waiting_reasons(rows)
    data = [conversion_public(row, reasons.get(row.id), service.keep) for row in rows]
    return _CURSORS.page(request, response, data, last)


@conversions.get(
    "/{conversion_id}",
    operation_id="conversions_get",
    responses=documented(404, also={200: TAGGED, **UNCHANGED}),
    response_model=ConversionPublic,
)
@requires(Scope.READ)
def get_conversion(
    conversion_id: ConversionId,
    context: Context,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get one conversion."""
    public = _public(context, context.conversions.get(conversion_id))
    return tagged_json(public.model_dump_json(), if_none_match=if_none_match)


@conversions.post("/{conversion_id}/cancel", operation_id="conversions_cancel", responses=documented(404, 409))
@requires(Scope.SUBMIT)
def cancel_conversion(conversion_id: ConversionId, context: Context) -> ConversionPublic:
    """Cancel a conversion; its worker stops within seconds."""
    return _public(context, context.conversions.cancel(conversion_id))


@conversions.delete("/{conversion_id}", operation_id="conversions_delete", status_code=204, responses=documented(404))
@requires(Scope.SUBMIT)
def delete_conversion(conversion_id: ConversionId, context: Context) -> None:
    """Delete a conversion with its recordings and results; one that runs ends."""
    context.conversions.delete(conversion_id)


for _part in (of_voice, conversions):
    router.include_router(_part)
