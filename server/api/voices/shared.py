"""Routes without a token: what a link shows of one voice. Read only.

A secret that is not valid counts as an invalid token does. Middleware keeps it out of logs, errors and the audit trail.
"""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.results import CheckpointPublic, PreviewPublic, QualityScore
from rvc_train.schemas.voices.links import SharedClip, SharedFile, SharedVoicePublic
from server.auth.authentication import address_of
from server.blobs.dispositions import content_disposition
from server.context import AppContext, Context
from server.database.engine import read_session
from server.errors import Gone, NotFound
from server.http.downloads import file_response
from server.http.problem_details import documented
from server.job_store.serializers import artifact_public, content_notice
from server.job_store.versions import Current, key_of
from server.results.evaluations import MEDIA_TYPES, EvaluationQueries
from server.storage.local import StoredFile
from server.voices.links import ENDED, Opened
from server.voices.queries import versions_public

router = APIRouter(prefix="/v1/shared", tags=["voices"])

Secret = Annotated[str, Path(max_length=200)]
CARDS = frozenset({"card.json", "card.md"})
"""Names of the model card, which also a link for listening only shows."""
_PRIVATE = {"Cache-Control": "private, no-store"}


@router.get("/{secret}", operation_id="shared_get", responses=documented(404, 429, 503))
async def get_shared(secret: Secret, request: Request, context: Context) -> SharedVoicePublic:
    """Get the voice that a link shows."""
    opened = await _opened(secret, request, context)
    context.links.count_use(opened.link)
    return await run_in_threadpool(_shared, context, opened, f"/v1/shared/{quote(secret, safe='')}")


@router.get(
    "/{secret}/files/{name}",
    operation_id="shared_download_file",
    response_class=Response,
    responses=documented(
        404,
        410,
        412,
        416,
        429,
        503,
        also={
            200: {"content": {"application/octet-stream": {}}, "description": "The file"},
            206: {"content": {"application/octet-stream": {}}, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
)
async def get_shared_file(secret: Secret, name: str, request: Request, context: Context) -> Response:
    """Get a file of the voice. Its ETag is its sha256; ranges and conditional requests are supported."""
    opened = await _opened(secret, request, context)
    if not opened.link.downloads and name not in CARDS:
        raise NotFound("this link is for listening only; ask whoever sent it for one with downloads")
    artifact = await run_in_threadpool(context.job_queries.artifact, opened.job.id, name)
    stored = StoredFile(artifact.path, artifact.size, artifact.sha256)
    headers = {"Content-Disposition": content_disposition(name), **_PRIVATE}
    return await run_in_threadpool(_file, request, context, stored, "application/octet-stream", headers)


@router.get(
    "/{secret}/previews/{name}",
    operation_id="shared_get_preview",
    response_class=Response,
    responses=documented(
        404,
        410,
        412,
        416,
        429,
        503,
        also={
            200: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The file"},
            206: {"content": {"audio/flac": {}, "image/png": {}}, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
)
async def get_shared_preview(secret: Secret, name: str, request: Request, context: Context) -> Response:
    """Get a file of a preview. Its ETag is its sha256; ranges and conditional requests are supported."""
    opened = await _opened(secret, request, context)
    stored = await run_in_threadpool(EvaluationQueries(context.engine).preview_file, opened.job, name)
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return await run_in_threadpool(_file, request, context, stored, media_type, _PRIVATE)


async def _opened(secret: str, request: Request, context: AppContext) -> Opened:
    """The link with a secret. NotFound, with the same words for every reason; TooManyRequests for an address that
    tries."""
    address = address_of(request.scope)
    await context.link_throttle.check(address, secret)
    opened = await run_in_threadpool(context.links.find, secret)
    if opened is None:
        await context.link_throttle.reject(address, request.url.path, request.state.request_id)
        raise NotFound(ENDED)
    return opened


def _file(
    request: Request, context: AppContext, stored: StoredFile, media_type: str, headers: dict[str, str]
) -> Response:
    path = context.storage.readable(stored.path)
    if not path.is_file():
        raise Gone("the file is no longer stored")
    return file_response(request, path, stored.size, media_type=media_type, sha256=stored.sha256, headers=headers)


def _shared(context: AppContext, opened: Opened, address: str) -> SharedVoicePublic:
    job, link = opened.job, opened.link
    with read_session(context.engine) as session:
        currents = {key_of(job): Current(job.number or 0, "set")}
        version = versions_public(session, [job], currents)[job.number]
    artifacts = [artifact_public(job, each) for each in context.job_queries.artifacts(job.id)]
    files = [
        SharedFile(
            kind=each.kind,
            name=each.name,
            size_bytes=each.size,
            sha256=each.sha256,
            url=f"{address}/files/{quote(each.name, safe='')}",
            content_notice=each.content_notice,
        )
        for each in artifacts
    ]
    evaluations = EvaluationQueries(context.engine)
    previews = evaluations.previews(job)
    shown_step = next((each.step for each in previews if each.is_best), previews[-1].step if previews else None)
    return SharedVoicePublic(
        name=job.name,
        version=version.version,
        sample_rate=str(job.config.get("sample_rate", "")),
        rvc_version=str(job.config.get("version", "")),
        content=str(job.config.get("content", "")),
        content_notice=content_notice(job),
        epoch=job.epoch if version.best_save is None else version.best_save.epoch,
        scores={} if version.best_save is None else version.best_save.scores,
        quality=_quality(evaluations.checkpoints(job)),
        finished_at=job.finished_at,
        expires_at=link.expires_at,
        downloads=link.downloads,
        files=files if link.downloads else [],
        card_url=next((each.url for each in files if each.name == "card.json"), None),
        clips=[_clip(each, address) for each in previews if each.step == shown_step],
    )


def _quality(saves: Sequence[CheckpointPublic]) -> list[QualityScore]:
    """Scores of the best save by conversions; of the last one where the best has none."""
    scored = [save for save in saves if save.quality]
    return next((save.quality for save in scored if save.is_best), scored[-1].quality if scored else [])


def _clip(preview: PreviewPublic, address: str) -> SharedClip:
    return SharedClip(
        clip=preview.clip,
        seconds=preview.seconds,
        epoch=preview.epoch,
        scores=preview.scores,
        audio_url=f"{address}/previews/{preview.audio.name}",
        recording_url=f"{address}/previews/{preview.recording.name}",
        picture_url=f"{address}/previews/{preview.picture.name}",
    )
