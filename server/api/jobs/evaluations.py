"""A job's saves: what they are worth, and how they sound and look."""

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


@router.get("/{job_id}/checkpoints", responses=documented(404))
@requires(Scope.READ)
def list_checkpoints(job_id: str, context: Context) -> CheckpointList:
    """Saves that were evaluated, by step, with their scores, and which is the best so far."""
    return CheckpointList(data=EvaluationQueries(context.engine).checkpoints(context.jobs.get(job_id)))


@router.get("/{job_id}/previews", responses=documented(404))
@requires(Scope.READ)
def list_previews(job_id: str, context: Context) -> PreviewList:
    """Clips as the voice spoke them at its saves, with scores, and where to fetch their sound and picture."""
    return PreviewList(data=EvaluationQueries(context.engine).previews(context.jobs.get(job_id)))


@router.head("/{job_id}/previews/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/previews/{name}",
    response_class=Response,
    responses=documented(
        404,
        410,
        416,
        also={
            200: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The file"},
            206: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The range asked for"},
            304: {"description": "Still the file that `If-None-Match` names"},
        },
    ),
)
@requires(Scope.READ)
def get_preview(job_id: str, name: str, request: Request, context: Context) -> Response:
    """One file of a preview. Its ETag is its sha256; ranges and conditional requests are understood."""
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
