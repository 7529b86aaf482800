"""Routes of datasets: upload, create, list, delete."""

import hashlib
import mimetypes
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator
from starlette.concurrency import run_in_threadpool

from rvc_engine.names.code_pages import AUTO
from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.datasets import (
    ZIP_NAMES,
    ConsentCreate,
    DatasetCreate,
    DatasetPublic,
    DatasetReport,
    DatasetStatus,
    check_code,
)
from server.api.authorization import OwnerFilter, require_principal, requires
from server.blobs.dispositions import content_disposition
from server.context import AppContext, Context
from server.database.tables import Dataset, Upload
from server.datasets.admission import is_ingestion_refused
from server.datasets.service import checked_name
from server.errors import Conflict, NotFound, Refused, UploadRefused, UploadTooLarge
from server.fetching.fetcher import check_addresses
from server.http.downloads import file_response
from server.http.lists import Cursors, Limit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.threads import on_disk
from server.job_store.serializers import dataset_public
from server.uploads.receive import StreamedBody

router = RouterUnderV1(prefix="/datasets", tags=["datasets"])

_CURSORS: Cursors[str] = Cursors("datasets", str)

NUM_ADMITTING = 2
SMALL_BYTES = 64 << 20
"""Bytes of recordings whose ingestion the request waits for."""
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02

_ADMITTED = {
    200: {"model": DatasetPublic, "description": "The server has the same bytes under this name already"},
    202: {"model": DatasetPublic, "description": "The dataset is made, and its ingestion goes on"},
}
_ZipNames = Annotated[str, Query(max_length=40, description=ZIP_NAMES), AfterValidator(check_code)]
_BODY = {
    "requestBody": {
        "required": True,
        "description": "One zip of recordings, or one audio file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put(
    "/{name:path}/content",  # a name may contain slashes, and arrives decoded
    operation_id="datasets_upload",
    status_code=201,
    openapi_extra=_BODY,
    responses=documented(
        404,
        408,
        409,
        410,
        413,
        422,
        507,
        also=_ADMITTED,
    ),
)
@requires(Scope.SUBMIT)
async def upload(
    name: str, request: Request, response: Response, context: Context, zip_names: _ZipNames = AUTO
) -> DatasetPublic:
    """Create a dataset from one zip or one audio file, sent as the raw body.

    The recordings are validated afterwards, and those of a large zip are unpacked afterwards too (`ingesting`). Jobs
    may be submitted at once, and wait for that. The same bytes under the same name are stored once: a repeated upload
    is answered with 200 and the existing dataset.
    """
    checked_name(name, parameter="name")
    header = request.headers.get("content-length", "")
    length = int(header) if header.isdecimal() else 0
    _check_size(length, context)
    owner, uploads = require_principal().owner, context.uploads
    upload = await on_disk(partial(uploads.create, owner, max(1, length), "", is_resumable=False))
    try:
        digest = hashlib.sha256()
        body = StreamedBody(
            request,
            context.settings.upload_idle_seconds,
            lambda size: _check_size(size, context),
            partial(uploads.watch, upload.id),
        )
        with context.open_uploads.hold(owner):
            await body.write(uploads.path(upload.id), digest)
        complete = await on_disk(uploads.finish, upload.id, body.size, digest.hexdigest())
        admit = partial(context.admissions.admit, name, complete, digest.hexdigest(), zip_names)
        return await _admitted(context, response, admit)
    finally:
        with anyio.CancelScope(shield=True):
            await on_disk(uploads.discard, upload.id)


async def _admitted(
    context: AppContext, response: Response, admit: Callable[[], tuple[Dataset, bool]]
) -> DatasetPublic:
    """Admit a dataset, and wait for the ingestion of a small one, so that most faults of an upload are errors at once.

    The status is 201 for a new one, 202 while its ingestion goes on, 200 for an existing one. Raises the errors of
    `admit`, and UploadRefused.
    """
    dataset, is_new = await run_sync(admit, limiter=context.admitting)
    context.ingestion.wake()
    if dataset.fetch is not None:
        context.fetcher.wake()
    elif (dataset.stored_bytes or 0) <= SMALL_BYTES:
        with anyio.move_on_after(WAIT_SECONDS):
            dataset = await _ingested(context, dataset)
    if is_ingestion_refused(dataset):
        await on_disk(context.admissions.discard_refused, dataset.id)
        raise UploadRefused(dataset.reason or "")
    context.dataset_validator.wake()
    if is_new:
        response.status_code = 202 if dataset.status == DatasetStatus.INGESTING else 201
    else:
        response.status_code = 200
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return dataset_public(dataset)


async def _ingested(context: AppContext, dataset: Dataset) -> Dataset:
    """The dataset when its ingestion is over, waits for the disk, or the server stops."""
    while dataset.status == DatasetStatus.INGESTING and dataset.reason is None and not context.stopping.is_set():
        await anyio.sleep(POLL_SECONDS)
        try:
            dataset = await run_in_threadpool(context.datasets.get, dataset.id)
        except NotFound:
            raise Conflict(
                "another request at the same time deleted the dataset, or had its archive refused; send this one again"
            ) from None
    return dataset


def _check_size(size: int, context: AppContext) -> None:
    limit = context.settings.max_upload_bytes
    if size > limit:
        raise UploadTooLarge(f"the upload is larger than the {limit} bytes that this server accepts; split it")


@router.post(
    "",
    operation_id="datasets_create",
    status_code=201,
    responses=documented(404, 409, 410, 413, 422, 507, also=_ADMITTED),
)
@requires(Scope.SUBMIT)
async def create_dataset(request: DatasetCreate, response: Response, context: Context) -> DatasetPublic:
    """Create a dataset from a complete upload, from addresses, or from what the server has in another dataset.

    Repeating it gives the same dataset. A large one is `ingesting` at first. With `sha256` nothing needs to be sent;
    404 means that the server does not have these bytes yet. With `dataset_id` it has the recordings of that dataset but
    those in `without`, and leaves out parts of others (`without_parts`) in training; files are shared. With `url` or
    `urls` the server downloads it: `fetch` has the progress, deleting the dataset cancels it, and what goes wrong makes
    it `invalid` with a reason.
    """
    principal = require_principal()
    urls = request.urls if request.url is None else [request.url]
    if urls:
        pointers = [f"/urls/{place}" for place in range(len(urls))] if request.url is None else ["/url"]
        await check_addresses(urls, context.settings, pointers)
    if request.upload_id is not None:
        services, visible_owner = (context.datasets, context.admissions), principal.visible_owner
        source = (request.name, request.upload_id, request.zip_names)
        admit = partial(context.uploads.make_dataset, *services, visible_owner, *source)
    elif urls:
        admit = partial(context.fetches.admit, principal.owner, request.name, urls, request.zip_names)
    elif request.dataset_id is not None:
        derived = (request.name, request.dataset_id, request.without, request.without_parts)
        admit = partial(context.admissions.admit_derived, principal.visible_owner, *derived)
    else:
        stored = (request.name, request.sha256 or "", request.zip_names)
        admit = partial(context.admissions.admit_stored, principal.owner, *stored)
    if request.consent is not None:
        admit = partial(_admit_with_consent, context, admit, request.consent, principal.visible_owner)
    return await _admitted(context, response, admit)


def _admit_with_consent(
    context: AppContext, admit: Callable[[], tuple[Dataset, bool]], consent: ConsentCreate, visible_owner: str | None
) -> tuple[Dataset, bool]:
    document = _document(context, consent, visible_owner)  # before anything is made
    dataset, is_new = admit()
    return context.consents.put(dataset.id, consent, document), is_new


def _document(context: AppContext, consent: ConsentCreate, visible_owner: str | None) -> Upload | None:
    """The complete upload of a consent's document, if it has one."""
    if consent.upload_id is None:
        return None
    try:
        upload = context.uploads.require_complete(visible_owner, consent.upload_id)
    except NotFound as error:  # 404 stands for an unknown dataset, or unknown recordings
        raise Refused(f"{error}; send the document first", "/upload_id") from error
    context.consents.check_document(upload)
    return upload


@router.get("", operation_id="datasets_list", responses=documented(422))
@requires(Scope.READ)
def list_datasets(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: Limit = 20,
) -> Page[DatasetPublic]:
    """List your datasets, newest first."""
    datasets, has_more = context.datasets.list(owner=owner_filter, after=after, limit=limit)
    data = [dataset_public(each) for each in datasets]
    return _CURSORS.page(request, response, data, data[-1].id if has_more else None)


@router.get("/{dataset_id}", operation_id="datasets_get", responses=documented(404))
@requires(Scope.READ)
def get_dataset(dataset_id: str, context: Context) -> DatasetPublic:
    """Get one dataset."""
    return dataset_public(context.datasets.get(dataset_id))


@router.get("/{dataset_id}/report", operation_id="datasets_get_report", responses=documented(404, 409))
@requires(Scope.READ)
def get_report(dataset_id: str, context: Context) -> DatasetReport:
    """Get the report on the recordings. 409 while they are being validated."""
    return context.datasets.report(dataset_id)


_AUDIO: dict[str, Any] = {"content": {"audio/*": {}, "video/*": {}, "application/octet-stream": {}}}


@router.get(
    "/{dataset_id}/recordings/{number}",
    operation_id="datasets_get_recording",
    response_class=Response,
    responses=documented(
        404,
        409,
        416,
        also={
            200: {**_AUDIO, "description": "The file"},
            206: {**_AUDIO, "description": "The requested range"},
        },
    ),
)
@requires(Scope.READ)
def get_recording(dataset_id: str, number: Annotated[int, Path(ge=1)], request: Request, context: Context) -> Response:
    """Get one recording as it was uploaded, by its place in the report, counted from 1. Ranges are supported."""
    recording = context.datasets.recording(dataset_id, number)
    media_type = mimetypes.guess_type(recording.path.name)[0] or ""
    is_media = media_type.startswith(("audio/", "video/"))  # a page of this site must never be a user's file
    headers = {
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": content_disposition(PurePosixPath(recording.name).name),
    }
    return file_response(
        request,
        recording.path,
        recording.path.stat().st_size,
        media_type=media_type if is_media else "application/octet-stream",
        headers=headers,
    )


@router.put("/{dataset_id}/consent", operation_id="datasets_set_consent", responses=documented(404, 409, 410, 413, 422))
@requires(Scope.SUBMIT)
def set_consent(dataset_id: str, request: ConsentCreate, context: Context) -> DatasetPublic:
    """Record the consent of a dataset's speaker, in place of the one before, which the audit trail keeps.

    Jobs that were submitted before keep the one that they were submitted under.
    """
    context.consents.of(dataset_id)
    document = _document(context, request, require_principal().visible_owner)
    return dataset_public(context.consents.put(dataset_id, request, document))


@router.delete(
    "/{dataset_id}/consent", operation_id="datasets_delete_consent", status_code=204, responses=documented(404, 409)
)
@requires(Scope.SUBMIT)
def delete_consent(dataset_id: str, context: Context) -> None:
    """Delete the consent of a dataset's speaker and its document. 409 when a job was submitted under it."""
    context.consents.remove(dataset_id)


_DOCUMENT: dict[str, Any] = {"content": {"application/octet-stream": {}}}


@router.get(
    "/{dataset_id}/consent/document",
    operation_id="datasets_get_consent_document",
    response_class=Response,
    responses=documented(
        404,
        410,
        412,
        416,
        also={
            200: {**_DOCUMENT, "description": "The file"},
            206: {**_DOCUMENT, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
)
@requires(Scope.READ)
def get_consent_document(dataset_id: str, request: Request, context: Context) -> Response:
    """Get the document of a dataset's consent. Its ETag is its sha256; ranges are supported."""
    document, path = context.consents.document(dataset_id)
    return file_response(
        request,
        path,
        document.size_bytes,
        media_type="application/octet-stream",
        sha256=document.sha256,
        headers={"Content-Disposition": content_disposition(document.name), "Cache-Control": "private, no-cache"},
    )


@router.delete("/{dataset_id}", operation_id="datasets_delete", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_dataset(dataset_id: str, context: Context) -> None:
    """Delete a dataset and the stage results made from it. 409 while a job needs it."""
    context.datasets.delete(dataset_id)
    context.uploads.delete_marked()
