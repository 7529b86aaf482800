"""Routes of weights: published ones, listed and downloaded; base weights of one's own, taken in, listed, deleted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Path, Request, Response

from rvc_engine.environment.files import rename
from rvc_engine.weights.own import BASE_ROLES, BaseRole
from rvc_train.schemas.access import Scope
from rvc_train.schemas.administration import (
    BaseWeightsCreate,
    BaseWeightsPublic,
    WeightsFetch,
    WeightsImport,
    WeightsImported,
    WeightsPublic,
    WeightsSource,
)
from rvc_train.schemas.base import Page
from server.api.authorization import OwnerFilter, require_principal, requires
from server.base_weights.service import MAX_BYTES, base_weights_public
from server.blobs.copies import link_or_copy
from server.context import AppContext, Context
from server.database.tables import BaseWeights
from server.errors import Conflict
from server.fetching.download import fetch
from server.fetching.fetcher import REPORT_BYTES
from server.http.lists import MAX_LONG_LIMIT, Cursors, Limit, LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.threads import on_disk, to_write

router = APIRouter()
published = RouterUnderV1(prefix="/weights", tags=["weights"])
base = RouterUnderV1(prefix="/base-weights", tags=["weights"])

_CURSORS: Cursors[int] = Cursors("weights")
_BASE_CURSORS: Cursors[str] = Cursors("base-weights", str)
_FROM_THE_HUB = WeightsFetch()
_GOES_ON = {202: {"model": WeightsPublic, "description": "The download goes on"}}

BaseWeightsId = Annotated[str, Path(max_length=64)]
_CHECKING = CapacityLimiter(2)
"""Threads that wait for a check: a process of its own with PyTorch, and hundreds of megabytes to read."""


@published.get("", operation_id="weights_list")
@requires(Scope.READ)
def list_weights(
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[int | None, Depends(_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[WeightsPublic]:
    """List all known weights, and whether this machine has them."""
    weights = context.weights.all()
    places = {one.id: place for place, one in enumerate(weights)}
    return _CURSORS.page_of_all(request, response, weights, lambda one: places[one.id], after, limit)


@published.get("/{weights_id}", operation_id="weights_get", responses=documented(404))
@requires(Scope.READ)
def get_weights(weights_id: str, context: Context) -> WeightsPublic:
    """Get the weights of one id, such as `hubert` or `pretrained-v2-40k`."""
    return context.weights.get(weights_id)


@published.post(":import", operation_id="weights_import", responses=documented(404, 409, 410, 422))
@requires(Scope.SUBMIT)
def import_weights(request: WeightsImport, context: Context) -> WeightsImported:
    """Take in a file of an RVC or Applio installation, sent as an upload. It must be one of the published weights."""
    visible_owner = require_principal().visible_owner
    path = upload_path(context, visible_owner, request.upload_id)
    try:
        return WeightsImported(files=context.weights.import_file(path))
    finally:
        context.uploads.delete(visible_owner, request.upload_id)


@published.post("/{weights_id}/fetch", operation_id="weights_fetch", responses=documented(404, also=_GOES_ON))
@requires(Scope.ADMIN)
def fetch_weights(
    weights_id: str, response: Response, context: Context, request: WeightsFetch = _FROM_THE_HUB
) -> WeightsPublic:
    """Download the missing files of an id in the background, or one of them; GET shows the progress."""
    name = weights_id if request.file is None else f"{weights_id}/{request.file}"
    if not context.weights.fetch(name, request.mirror).is_present:
        response.status_code = 202
    return context.weights.get(weights_id)


@base.post("", operation_id="base_weights_create", status_code=201, responses=documented(404, 409, 410, 422, 507))
@requires(Scope.SUBMIT)
async def create_base_weights(request: BaseWeightsCreate, response: Response, context: Context) -> BaseWeightsPublic:
    """Take in base weights, from complete uploads or from addresses, and check them. No code in a file is run.

    Jobs start from them with `config.pretrained` set to their name. The answer comes after the download and the check.
    """
    principal, service = require_principal(), context.base_weights
    await run_sync(service.refuse_taken, principal.owner, request.name)
    sources = {role: source for role in BASE_ROLES if (source := getattr(request, role)) is not None}
    uploads = {role: source.upload_id for role, source in sources.items() if source.upload_id is not None}
    files: dict[BaseRole, FilePath] = {}
    for role, upload_id in uploads.items():
        files[role] = await to_write(upload_path, context, principal.visible_owner, upload_id)
    async with incoming(context) as folder:
        files |= await _fetched(context, principal.owner, sources, folder)
        make = partial(_checked, context, principal.owner, request.name, files, set(uploads), folder)
        row = await run_sync(make, limiter=_CHECKING)
    for upload_id in set(uploads.values()):
        await on_disk(context.uploads.discard, upload_id)
    response.headers["Location"] = f"/v1/base-weights/{row.id}"
    return base_weights_public(row)


@asynccontextmanager
async def incoming(context: AppContext) -> AsyncIterator[FilePath]:
    """A new empty folder, made and deleted in threads: either may wait for the disk."""
    incoming = context.storage.incoming_folder()
    folder = await on_disk(incoming.__enter__)
    try:
        yield folder
    finally:
        with CancelScope(shield=True):
            await on_disk(incoming.__exit__, None, None, None)


def upload_path(context: AppContext, visible_owner: str | None, upload_id: str) -> FilePath:
    """The file of a complete upload of which no dataset was made. NotFound, Gone, Conflict."""
    upload = context.uploads.require_complete(visible_owner, upload_id)
    if upload.dataset_id is not None:
        raise Conflict(f"the upload {upload.id} has become the dataset {upload.dataset_id}; send the file again")
    return context.uploads.path(upload.id)


class _Watch:
    """Looks now and then whether the owner and the disk have room for a download."""

    def __init__(self, context: AppContext, owner: str, before: int) -> None:
        """`before`: bytes that the same request has downloaded already."""
        self._context, self._owner, self._before = context, owner, before
        self._again_at = 0

    async def __call__(self, received: int, total: int | None) -> None:
        """Raise StorageQuotaExceeded or NoSpace."""
        if received >= self._again_at:
            self._again_at = received + REPORT_BYTES
            sizes = (self._before + received, self._before + (total or received))
            await to_write(self._context.base_weights.refuse_too_many_bytes, self._owner, *sizes)


async def _fetched(
    context: AppContext, owner: str, sources: dict[BaseRole, WeightsSource], folder: FilePath
) -> dict[BaseRole, FilePath]:
    """The files of those sources that are addresses, downloaded into the folder."""
    fetched: dict[BaseRole, FilePath] = {}
    before = 0
    for role, source in sources.items():
        if source.url is not None:
            target = fetched[role] = folder / f"fetched-{role}.pth"
            watch = _Watch(context, owner, before)
            with context.open_uploads.hold(owner):  # or an owner could have hundreds of files of 2 GB beside the quota
                before += await fetch(source.url, target, f"/{role}/url", MAX_BYTES, context.settings, watch)
    return fetched


def _checked(
    context: AppContext,
    owner: str,
    name: str,
    files: dict[BaseRole, FilePath],
    uploaded: set[BaseRole],
    folder: FilePath,
) -> BaseWeights:
    """Check files, and keep them; those of uploads are linked, so that a refusal leaves the uploads as they are."""
    own = {}
    for role in BASE_ROLES:
        if role in files:
            own[role] = folder / f"own-{role}.pth"
            if role in uploaded:
                link_or_copy(files[role], own[role])
            else:
                rename(files[role], own[role])
    for name_of_folder in ("check", "kept"):
        (folder / name_of_folder).mkdir()
    found = context.base_weights.check(folder / "check", own)
    new_bytes = sum(found[role].size for role in own if role not in uploaded)
    kept = {role: (own[role], found[role]) for role in own}
    return context.base_weights.add(owner, name, kept, new_bytes, folder / "kept")


@base.get("", operation_id="base_weights_list", responses=documented(422))
@requires(Scope.READ)
def list_base_weights(
    request: Request,
    response: Response,
    context: Context,
    owner_filter: OwnerFilter,
    after: Annotated[str | None, Depends(_BASE_CURSORS)],
    limit: Limit = 20,
) -> Page[BaseWeightsPublic]:
    """List your base weights and what they fit, newest first."""
    rows, has_more = context.base_weights.list(owner_filter, after, limit)
    data = [base_weights_public(row) for row in rows]
    return _BASE_CURSORS.page(request, response, data, data[-1].id if has_more else None)


@base.get("/{base_weights_id}", operation_id="base_weights_get", responses=documented(404))
@requires(Scope.READ)
def get_base_weights(base_weights_id: BaseWeightsId, context: Context) -> BaseWeightsPublic:
    """Get one set of base weights: what it fits, and its files."""
    return base_weights_public(context.base_weights.get(base_weights_id))


@base.delete("/{base_weights_id}", operation_id="base_weights_delete", status_code=204, responses=documented(404, 409))
@requires(Scope.SUBMIT)
def delete_base_weights(base_weights_id: BaseWeightsId, context: Context) -> None:
    """Delete base weights; not while a job that has not ended begins with them."""
    context.base_weights.delete(base_weights_id)


for _part in (published, base):
    router.include_router(_part)
