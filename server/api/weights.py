"""Routes of published weights: list them, and download missing ones."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.administration import WeightsFetch, WeightsImport, WeightsImported, WeightsPublic
from rvc_train.schemas.base import Page
from server.api.authorization import require_principal, requires
from server.context import Context
from server.errors import Conflict
from server.http.lists import MAX_LONG_LIMIT, Cursors, LongLimit
from server.http.problem_details import documented

router = APIRouter(prefix="/weights", tags=["weights"])

_CURSORS: Cursors[int] = Cursors("weights")
_FROM_THE_HUB = WeightsFetch()
_GOES_ON = {202: {"model": WeightsPublic, "description": "The download goes on"}}


@router.get("", operation_id="weights_list")
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


@router.get("/{weights_id}", operation_id="weights_get", responses=documented(404))
@requires(Scope.READ)
def get_weights(weights_id: str, context: Context) -> WeightsPublic:
    """Get the weights of one id, such as `hubert` or `pretrained-v2-40k`."""
    return context.weights.get(weights_id)


@router.post(":import", operation_id="weights_import", responses=documented(404, 409, 410, 422))
@requires(Scope.SUBMIT)
def import_weights(request: WeightsImport, context: Context) -> WeightsImported:
    """Take in a file of an RVC or Applio installation, sent as an upload. It must be one of the published weights."""
    visible_owner = require_principal().visible_owner
    upload = context.uploads.require_complete(visible_owner, request.upload_id)
    if upload.dataset_id is not None:
        raise Conflict(f"the upload {upload.id} has become the dataset {upload.dataset_id}; send the file again")
    try:
        return WeightsImported(files=context.weights.import_file(context.uploads.path(upload.id)))
    finally:
        context.uploads.delete(visible_owner, upload.id)


@router.post("/{weights_id}/fetch", operation_id="weights_fetch", responses=documented(404, also=_GOES_ON))
@requires(Scope.ADMIN)
def fetch_weights(
    weights_id: str, response: Response, context: Context, request: WeightsFetch = _FROM_THE_HUB
) -> WeightsPublic:
    """Download the missing files of an id in the background, or one of them; GET shows the progress."""
    name = weights_id if request.file is None else f"{weights_id}/{request.file}"
    if not context.weights.fetch(name, request.mirror).is_present:
        response.status_code = 202
    return context.weights.get(weights_id)
