"""Routes that move a voice: its bundle out of this server, and a bundle of another one in."""

import hashlib
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from rvc_engine.environment.files import rename
from rvc_engine.names.voices import voice_file_stem
from rvc_train.schemas.access import Scope
from rvc_train.schemas.voices.voices import VoiceDetail, VoiceImport
from server.api.authorization import VoiceOwner, require_principal, requires
from server.api.voices.names import VoiceNameInPath, key_in_path
from server.api.weights import incoming, upload_path
from server.blobs.dispositions import content_disposition
from server.context import AppContext, Context
from server.errors import Conflict
from server.http.downloads import chunks_of
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.threads import on_disk, to_write
from server.job_store.versions import VoiceKey
from server.voices.bundle_files import open_bundle
from server.voices.imports import Unpacked
from server.voices.queries import voice_url

router = RouterUnderV1(prefix="/voices", tags=["voices"])

_IMPORTING = CapacityLimiter(2)
"""Threads that unpack and check a bundle: gigabytes to read, and a process of its own with PyTorch."""


@router.get(
    "/{name:path}/bundle.zip",
    operation_id="voices_download_bundle",
    response_class=Response,
    responses=documented(
        404, 409, 410, 422, also={200: {"content": {"application/zip": {}}, "description": "The voice as one zip"}}
    ),
)
@requires(Scope.READ)
def get_bundle(
    name: VoiceNameInPath,
    owner: VoiceOwner,
    context: Context,
    job_id: Annotated[str | None, Query(max_length=64, description="The version; without it the current one.")] = None,
    dataset: Annotated[bool, Query(description="With the recordings that it was trained on.")] = False,
) -> Response:
    """Get a version in one zip, made while it is sent, for `POST /v1/voices` of another server.

    It has the files of the job, its last save where the server has that, evaluations and previews.
    """
    try:
        bundle = context.bundles.make(key_in_path(owner, name), job_id, with_recordings=dataset)
    except ValidationError as error:  # rows of a version that no present one writes
        raise Conflict(f"this version of {name!r} cannot be bundled: its records are damaged") from error
    headers = {
        "Accept-Ranges": "none",
        "Content-Length": str(len(bundle)),
        "Content-Disposition": content_disposition(f"{voice_file_stem(name)}.bundle.zip"),
    }
    return StreamingResponse(chunks_of(bundle), headers=headers, media_type="application/zip")


@router.post("", operation_id="voices_import", status_code=201, responses=documented(404, 409, 410, 413, 422, 507))
@requires(Scope.SUBMIT)
async def import_voice(request: VoiceImport, response: Response, context: Context) -> VoiceDetail:
    """Take in a voice from the bundle of another server, sent as an upload. The answer comes after it is checked.

    It becomes the newest version of the voice of its name, a job that has succeeded. Its recordings become a dataset,
    if the bundle has them. 409 when the voice has this very version.
    """
    principal = require_principal()
    path = await to_write(upload_path, context, principal.visible_owner, request.upload_id)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(incoming(context))
        take_in = partial(_take_in, context, principal.owner, request, path, folder)
        key = await run_sync(take_in, limiter=_IMPORTING)
    await on_disk(context.uploads.discard, request.upload_id)
    context.ingestion.wake()
    response.headers["Location"] = voice_url(key)
    return await on_disk(context.voice_queries.get, key)


def _take_in(context: AppContext, owner: str, request: VoiceImport, path: Path, folder: Path) -> VoiceKey:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    num_uploaded = path.stat().st_size
    with open_bundle(path) as bundle:
        key = VoiceKey(owner, request.name or bundle.manifest.voice.name)
        unpacked = context.imports.unpack(bundle, key, folder)
    dataset_id = None
    if unpacked.recordings is not None:
        dataset_id = _admitted(context, owner, request.upload_id, unpacked, unpacked.recordings)
    context.imports.insert(key, unpacked, dataset_id, sha256, num_uploaded)
    return key


def _admitted(context: AppContext, owner: str, bundle_id: str, unpacked: Unpacked, recordings: Path) -> str:
    """A dataset of a bundle's recordings, which take the way of an upload."""
    origin = unpacked.manifest.dataset
    size = recordings.stat().st_size
    context.imports.give_bytes(bundle_id, size)
    upload = context.uploads.create(owner, size, "", is_resumable=False)
    try:
        rename(recordings, context.uploads.path(upload.id))
        context.uploads.finish(upload.id, size, origin.recordings.sha256 if origin.recordings else "")
        services = (context.datasets, context.admissions)
        dataset, _ = context.uploads.make_dataset(*services, owner, origin.name, upload.id, "auto")
    except BaseException:
        context.uploads.discard(upload.id)
        raise
    return dataset.id
