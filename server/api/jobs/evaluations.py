"""Routes of a job's evaluated saves: scores, previews and their files."""

from typing import Annotated

from fastapi import Depends, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.results import CheckpointPublic, PreviewPublic
from server.api.authorization import requires
from server.context import Context
from server.errors import Gone
from server.http.downloads import file_response
from server.http.lists import MAX_LONG_LIMIT, Cursors, LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.results.evaluations import MEDIA_TYPES, EvaluationQueries

router = RouterUnderV1(prefix="/jobs", tags=["results"])

_CHECKPOINT_CURSORS: Cursors[int] = Cursors("checkpoints")
_PREVIEW_CURSORS: Cursors[tuple[int, int]] = Cursors("previews", tuple[int, int])


@router.get("/{job_id}/checkpoints", operation_id="jobs_list_checkpoints", responses=documented(404))
@requires(Scope.READ)
def list_checkpoints(
    job_id: str,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[int | None, Depends(_CHECKPOINT_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[CheckpointPublic]:
    """List the evaluated saves by step, with their scores and the best so far."""
    checkpoints = EvaluationQueries(context.engine).checkpoints(context.jobs.get(job_id))
    return _CHECKPOINT_CURSORS.page_of_all(request, response, checkpoints, lambda one: one.step, after, limit)


@router.get("/{job_id}/previews", operation_id="jobs_list_previews", responses=documented(404))
@requires(Scope.READ)
def list_previews(
    job_id: str,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[tuple[int, int] | None, Depends(_PREVIEW_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[PreviewPublic]:
    """List the clips rendered at each save, by step and clip, with scores and the addresses of sound and picture."""
    previews = EvaluationQueries(context.engine).previews(context.jobs.get(job_id))
    return _PREVIEW_CURSORS.page_of_all(request, response, previews, lambda one: (one.step, one.clip), after, limit)


@router.get(
    "/{job_id}/previews/{name}",
    operation_id="jobs_download_preview",
    response_class=Response,
    responses=documented(
        404,
        410,
        412,
        416,
        also={
            200: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The file"},
            206: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
)
@requires(Scope.READ)
def get_preview(job_id: str, name: str, request: Request, context: Context) -> Response:
    """Get one file of a preview. Its ETag is its sha256; ranges and conditional requests are supported."""
    stored = EvaluationQueries(context.engine).preview_file(context.jobs.get(job_id), name)
    path = context.storage.readable(stored.path)
    if not path.is_file():
        raise Gone(f"the preview {name!r} is no longer stored")
    return file_response(
        request,
        path,
        stored.size,
        media_type=MEDIA_TYPES[name.rpartition(".")[2]],
        sha256=stored.sha256,
        headers={"Cache-Control": "private, no-cache"},
    )
