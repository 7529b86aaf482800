"""Routes of datasets: upload, create, list, delete."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from fastapi import APIRouter, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.datasets import DatasetCreate, DatasetPublic, DatasetReport
from server.api.authorization import OwnerFilter, require_principal, requires
from server.context import After, AppContext, Context, Limit, link_next
from server.datasets.service import checked_name
from server.errors import UploadTooLarge
from server.http.problem_details import documented
from server.http.threads import on_disk
from server.job_store.serializers import dataset_public
from server.uploads.receive import StreamedBody

router = APIRouter(prefix="/datasets", tags=["datasets"])

_BODY = {
    "requestBody": {
        "required": True,
        "description": "One zip of recordings, or one audio file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put(
    "/{name}/content",
    status_code=201,
    openapi_extra=_BODY,
    responses=documented(
        408,
        413,
        422,
        507,
        also={200: {"model": DatasetPublic, "description": "The server has the same bytes under this name already"}},
    ),
)
@requires(Scope.SUBMIT)
async def upload(name: str, request: Request, response: Response, context: Context) -> DatasetPublic:
    """Create a dataset from one zip or one audio file, sent as the raw body.

    The recordings are validated afterwards; jobs may be submitted at once, and wait for that. The same bytes under the
    same name are stored once: a repeated upload is answered with 200 and the existing dataset.
    """
    checked_name(name)
    header = request.headers.get("content-length", "")
    length = int(header) if header.isdecimal() else 0
    _check_size(length, context)
    owner = require_principal().owner
    await on_disk(context.datasets.check_room, length)
    await on_disk(context.quotas.check_upload, owner, length)
    async with _incoming_folder(context) as folder:
        path = folder / "upload"
        digest = hashlib.sha256()
        body = StreamedBody(
            request,
            context.settings.upload_idle_seconds,
            lambda size: _check_size(size, context),
            lambda: context.datasets.check_room(0),
        )
        await body.write(path, digest)
        dataset, is_new = await on_disk(context.datasets.ingest, owner, name, path, digest.hexdigest(), body.size)
    context.dataset_validator.wake()
    if not is_new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return dataset_public(dataset)


@asynccontextmanager
async def _incoming_folder(context: AppContext) -> AsyncIterator[Path]:
    """As `Storage.incoming_folder`, beside the event loop: to delete gigabytes takes seconds."""
    folder = context.storage.incoming_folder()
    path = await on_disk(folder.__enter__)
    try:
        yield path
    finally:
        with anyio.CancelScope(shield=True):
            await on_disk(folder.__exit__, None, None, None)


def _check_size(size: int, context: AppContext) -> None:
    limit = context.settings.max_upload_bytes
    if size > limit:
        raise UploadTooLarge(f"the upload is larger than the {limit} bytes that this server accepts; split it")


@router.post(
    "",
    status_code=202,
    responses=documented(
        404,
        409,
        410,
        413,
        422,
        507,
        also={200: {"model": DatasetPublic, "description": "The server has the same bytes already"}},
    ),
)
@requires(Scope.SUBMIT)
def create_dataset(request: DatasetCreate, response: Response, context: Context) -> DatasetPublic:
    """Create a dataset from a complete upload, or from bytes that the server has already in another dataset.

    With `sha256` nothing needs to be sent; 404 means that the server does not have these bytes yet.
    """
    principal = require_principal()
    if request.upload_id is not None:
        dataset, is_new = context.uploads.make_dataset(
            context.datasets, principal.visible_owner, request.name, request.upload_id
        )
    else:
        dataset, is_new = context.datasets.ingest_stored(principal.owner, request.name, request.sha256 or "")
    context.dataset_validator.wake()
    if not is_new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/datasets/{dataset.id}"
    return dataset_public(dataset)


@router.get("", responses=documented(422))
@requires(Scope.READ)
def list_datasets(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: After = None,
    limit: Limit = 20,
) -> Page[DatasetPublic]:
    """List your datasets, newest first."""
    datasets, has_more = context.datasets.list(owner=owner_filter, after=after, limit=limit)
    cursor = datasets[-1].id if has_more else None
    link_next(request, response, cursor)
    return Page(data=[dataset_public(each) for each in datasets], has_more=has_more, next_cursor=cursor)


@router.get("/{dataset_id}", responses=documented(404))
@requires(Scope.READ)
def get_dataset(dataset_id: str, context: Context) -> DatasetPublic:
    """Get one dataset."""
    return dataset_public(context.datasets.get(dataset_id))


@router.get("/{dataset_id}/report", responses=documented(404, 409))
@requires(Scope.READ)
def get_report(dataset_id: str, context: Context) -> DatasetReport:
    """Get the report on the recordings. 409 while they are being validated."""
    return context.datasets.report(dataset_id)


@router.delete("/{dataset_id}", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_dataset(dataset_id: str, context: Context) -> None:
    """Delete a dataset and the stage results made from it. 409 while a job needs it."""
    context.datasets.delete(dataset_id)
