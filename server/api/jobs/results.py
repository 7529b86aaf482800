"""Routes of a job's metrics and artifacts."""

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from rvc_engine.names.voices import voice_file_stem
from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.events import MetricSeries
from rvc_train.schemas.results import ArtifactPublic
from server.api.authorization import requires
from server.blobs.dispositions import content_disposition
from server.context import AppContext, Context
from server.database.result_tables import Artifact
from server.errors import Gone, NotFound, Refused
from server.http.downloads import file_response, repr_digest, zip_of
from server.http.lists import MAX_LONG_LIMIT, Cursors, LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.job_store.serializers import artifact_public
from server.middleware.head import IS_HEAD

router = RouterUnderV1(prefix="/jobs", tags=["results"])

MAX_STEP = 2**31 - 1
"""Largest step in the database."""
SIGNED_SECONDS = 300
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Range")
_ELSEWHERE: dict[str, Any] = {
    "description": "The file is in object storage, for some minutes at this address (`RVC_TRAIN_PRESIGNED_DOWNLOADS`)",
    "headers": {"Location": {"description": "URL of the file", "required": True, "schema": {"type": "string"}}},
}
_METRIC_CURSORS: Cursors[str] = Cursors("metrics", str)
_CURSORS: Cursors[str] = Cursors("artifacts", str)


@router.get(
    "/{job_id}/metrics",
    operation_id="jobs_list_metrics",
    response_model=Page[MetricSeries],
    responses=documented(404, 422, also={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}),
)
@requires(Scope.READ)
def get_metrics(
    job_id: str,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_METRIC_CURSORS)],
    key: Annotated[list[str] | None, Query(description="Only this metric; may be repeated.")] = None,
    since_step: Annotated[int, Query(ge=0, le=MAX_STEP, description="Only steps after this one.")] = 0,
    max_points: Annotated[
        int, Query(ge=2, le=20_000, description="Each series is thinned to about this number.")
    ] = 1000,
    limit: LongLimit = MAX_LONG_LIMIT,
    form: Annotated[
        Literal["json", "csv"],
        Query(alias="format", description="`csv`: a table with a row for each step and a column for each key."),
    ] = "json",
) -> Page[MetricSeries] | Response:
    """List the values measured during training over the steps: one series by key."""
    series = context.job_queries.metrics(job_id, key or (), since_step, max_points)
    if form == "csv":
        if after is not None:
            raise Refused("a table in CSV has no pages; leave `after` out", parameter="after")
        disposition = content_disposition(f"{voice_file_stem(context.jobs.get(job_id).name)}-metrics.csv")
        headers = {"Content-Disposition": disposition}
        return Response(_csv(series[:limit]), headers=headers, media_type="text/csv")
    return _METRIC_CURSORS.page_of_all(request, response, series, lambda one: one.key, after, limit)


def _csv(series: Sequence[MetricSeries]) -> str:
    """A table of the series (RFC 4180): empty where a key has no value at a step, or one that was not finite."""
    columns = [dict(zip(each.steps, each.values, strict=True)) for each in series]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", *(each.key for each in series)])
    for step in sorted({step for column in columns for step in column}):
        writer.writerow([step, *(column.get(step) for column in columns)])
    return text.getvalue()


@router.get("/{job_id}/artifacts", operation_id="jobs_list_artifacts", responses=documented(404))
@requires(Scope.READ)
def list_artifacts(
    job_id: str,
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[ArtifactPublic]:
    """List the files of a job by name, with size and sha256."""
    job = context.jobs.get(job_id)
    artifacts = [artifact_public(job, each) for each in context.job_queries.artifacts(job_id)]
    return _CURSORS.page_of_all(request, response, artifacts, lambda one: one.name, after, limit)


@router.get(
    "/{job_id}/artifacts.zip",
    operation_id="jobs_download_all",
    response_class=Response,
    responses=documented(
        404, 410, also={200: {"content": {"application/zip": {}}, "description": "All files of the job in one zip"}}
    ),
)
@requires(Scope.READ)
def get_zip(
    job_id: str,
    context: Context,
    names: Annotated[
        list[str] | None, Query(alias="name", description="Only the file of this name; may be repeated.")
    ] = None,
) -> Response:
    """Get all files in one zip, made while it is sent. 404 while there are none."""
    job = context.jobs.get(job_id)
    artifacts = context.job_queries.artifacts(job_id)
    if names is not None:
        artifacts = [context.job_queries.artifact(job_id, name) for name in dict.fromkeys(names)]
    if not artifacts:
        raise NotFound(f"the job {job_id} has no files yet")
    files = [(context.storage.fetch(context.storage.resolve(each.path)), each.name) for each in artifacts]
    for path, name in files:
        if not path.is_file():
            raise Gone(f"the file {name!r} is no longer stored")
    chunks, size = zip_of(files)
    headers = {
        "Accept-Ranges": "none",
        "Content-Length": str(size),
        "Content-Disposition": content_disposition(f"{voice_file_stem(job.name)}.zip"),
    }
    return StreamingResponse(chunks, headers=headers, media_type="application/zip")


@router.get(
    "/{job_id}/artifacts/{name}",
    operation_id="jobs_download_artifact",
    response_class=Response,
    responses=documented(
        404,
        410,
        412,
        416,
        also={
            200: {"content": {"application/octet-stream": {}}, "description": "The file"},
            206: {"content": {"application/octet-stream": {}}, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
            307: _ELSEWHERE,
        },
    ),
)
@requires(Scope.READ)
def get_artifact(job_id: str, name: str, request: Request, context: Context) -> Response:
    """Get one file. Its ETag is its sha256; ranges and conditional requests are supported."""
    artifact = context.job_queries.artifact(job_id, name)
    if (elsewhere := _redirect(request, context, artifact)) is not None:
        return elsewhere
    path = context.storage.readable(artifact.path)
    if not path.is_file():
        raise Gone(f"the file {name!r} is no longer stored")
    return file_response(
        request,
        path,
        artifact.size,
        media_type="application/octet-stream",
        sha256=artifact.sha256,
        headers={"Content-Disposition": content_disposition(name), "Cache-Control": "private, no-cache"},
    )


def _redirect(request: Request, context: AppContext, artifact: Artifact) -> Response | None:
    """A redirect to the file in the store; None where this server sends it.

    Such an address is for GET alone, and the store has neither this server's ETag nor conditions on it.
    """
    is_plain = IS_HEAD not in request.scope and not any(name in request.headers for name in _CONDITIONS)
    if not context.settings.presigned_downloads or not is_plain:
        return None
    address = context.storage.signed_url(artifact.path, artifact.name, SIGNED_SECONDS)
    if address is None:
        return None
    headers = {"ETag": f'"{artifact.sha256}"', "Repr-Digest": repr_digest(artifact.sha256), "Cache-Control": "no-store"}
    return RedirectResponse(address, 307, headers)
