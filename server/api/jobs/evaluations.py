"""Routes of a job's evaluated saves: scores, previews and their files."""

from fastapi import APIRouter, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.results import CheckpointList, PreviewList
from server.api.authorization import requires
from server.context import Context
from server.errors import Gone
from server.http.downloads import file_response
from server.http.problem_details import documented
from server.results.evaluations import MEDIA_TYPES, EvaluationQueries

router = APIRouter(prefix="/jobs", tags=["results"])


@router.get("/{job_id}/checkpoints", operation_id="jobs_list_checkpoints", responses=documented(404))
@requires(Scope.READ)
def list_checkpoints(job_id: str, context: Context) -> CheckpointList:
    """List the evaluated saves by step, with their scores and the best so far."""
    return CheckpointList(data=EvaluationQueries(context.engine).checkpoints(context.jobs.get(job_id)))


@router.get("/{job_id}/previews", operation_id="jobs_list_previews", responses=documented(404))
@requires(Scope.READ)
def list_previews(job_id: str, context: Context) -> PreviewList:
    """List the clips rendered at each save, with scores and the addresses of sound and picture."""
    return PreviewList(data=EvaluationQueries(context.engine).previews(context.jobs.get(job_id)))


@router.head("/{job_id}/previews/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/previews/{name}",
    operation_id="jobs_download_preview",
    response_class=Response,
    responses=documented(
        404,
        410,
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
    path = context.storage.resolve(stored.path)
    if not path.is_file():
        raise Gone(f"the preview {name!r} is no longer stored")
    return file_response(
        request,
        path,
        stored.size,
        media_type=MEDIA_TYPES[name.rpartition(".")[2]],
        etag=f'"{stored.sha256}"',
        headers={"Cache-Control": "private, no-cache"},
    )
