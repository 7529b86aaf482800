"""Routes of a conversion's events, recordings and results."""

import json
import mimetypes
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from rvc_engine.names.voices import voice_file_stem
from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.voices.conversions import ConversionEvent, ConversionStatus
from server.api.authorization import requires
from server.api.conversions.conversions import ConversionId
from server.blobs.dispositions import content_disposition
from server.context import MAX_INTEGER, AppContext, Context
from server.conversions.serializers import conversion_events, progress_event
from server.errors import Gone, NotFound, Refused
from server.http.downloads import file_response, zip_of
from server.http.lists import LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.http.sse import Batch, last_event_id, message, wants_stream

router = RouterUnderV1(prefix="/conversions", tags=["conversions"])

_MEDIA_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".opus": "audio/ogg"}
_AUDIO: dict[str, Any] = {"content": {"audio/*": {}}}
_ANY_AUDIO: dict[str, Any] = {"content": {"audio/*": {}, "video/*": {}, "application/octet-stream": {}}}


@router.get(
    "/{conversion_id}/events",
    operation_id="conversions_list_events",
    response_model=Page[ConversionEvent],
    responses=documented(
        404,
        422,
        also={
            200: {"content": {"text/event-stream": {}}, "description": "A list or, by `Accept`, a stream of events"},
            204: {"description": "A follower has received all events and need not reconnect"},
        },
    ),
)
@requires(Scope.READ)
def get_events(
    conversion_id: ConversionId,
    request: Request,
    context: Context,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Only events after this number.")] = 0,
    limit: LongLimit = 100,
) -> Response | Page[ConversionEvent]:
    """List a conversion's events, oldest first, or stream them.

    With `Accept: text/event-stream`, events are sent as they happen, with their number as id, `progress` between them,
    and `event: end` follows when the conversion has ended.
    """
    row = context.conversions.get(conversion_id)
    events = conversion_events(row)
    if not wants_stream(request):
        found = [event for event in events if event.seq > after]
        cursor = str(found[limit - 1].seq) if len(found) > limit else None
        return Page(data=found[:limit], has_more=cursor is not None, next_cursor=cursor)
    resumed = last_event_id(request)
    start = after if resumed is None else resumed
    if resumed is not None and ConversionStatus(row.status).is_terminal and start >= len(events):
        return Response(status_code=204)
    if start > len(events):
        raise Refused(f"the conversion has {len(events)} events; none has the number {start}, so none can follow it")
    return context.sse_responder.response(request, _Follower(context, conversion_id, start).poll)


class _Follower:
    """Position of one follower in a conversion's events, and the progress that it was sent last."""

    def __init__(self, context: AppContext, conversion_id: str, seen: int) -> None:
        self._context, self._id, self._seen = context, conversion_id, seen
        self._progress = 0.0

    async def poll(self) -> Batch:
        """The events since the last poll."""
        row = await run_in_threadpool(self._context.conversions.get, self._id)
        events = conversion_events(row)
        new = events[self._seen :]
        is_over = ConversionStatus(row.status).is_terminal
        if row.progress != self._progress and not is_over:
            self._progress = row.progress
            new.append(progress_event(row))
        self._seen = len(events)
        messages = [message(event.model_dump_json(), event.seq) for event in new]
        return Batch(messages, json.dumps({"status": row.status}) if is_over else None)


@router.get(
    "/{conversion_id}/audio",
    operation_id="conversions_download",
    response_class=Response,
    responses=documented(
        404,
        409,
        410,
        412,
        416,
        422,
        also={
            200: {**_AUDIO, "description": "The file"},
            206: {**_AUDIO, "description": "The requested range"},
            304: {"description": "Unchanged since the ETag in `If-None-Match`"},
        },
    ),
)
@requires(Scope.READ)
def get_audio(
    conversion_id: ConversionId,
    request: Request,
    context: Context,
    name: Annotated[
        str | None, Query(max_length=400, description="Name of a result, where there are several recordings.")
    ] = None,
) -> Response:
    """Get the converted recording. Its ETag is its sha256; ranges and conditional requests are supported."""
    result = context.conversions.result(conversion_id, name)
    return file_response(
        request,
        _stored(context, result),
        result["bytes"],
        media_type=_MEDIA_TYPES.get("." + result["name"].rpartition(".")[2], "application/octet-stream"),
        sha256=result["sha256"],
        headers={"Content-Disposition": content_disposition(result["name"]), "Cache-Control": "private, no-cache"},
    )


@router.get(
    "/{conversion_id}/audio.zip",
    operation_id="conversions_download_all",
    response_class=Response,
    responses=documented(
        404, 409, 410, also={200: {"content": {"application/zip": {}}, "description": "All results in one zip"}}
    ),
)
@requires(Scope.READ)
def get_zip(conversion_id: ConversionId, context: Context) -> Response:
    """Get all converted recordings in one zip, made while it is sent."""
    row, results = context.conversions.converted(conversion_id)
    files = [(_stored(context, result), result["name"]) for result in results]
    chunks, size = zip_of(files)
    headers = {
        "Accept-Ranges": "none",
        "Content-Length": str(size),
        "Content-Disposition": content_disposition(f"{voice_file_stem(row.voice)}-conversion.zip"),
    }
    return StreamingResponse(chunks, headers=headers, media_type="application/zip")


@router.get(
    "/{conversion_id}/recordings/{number}",
    operation_id="conversions_get_recording",
    response_class=Response,
    responses=documented(
        404,
        410,
        416,
        also={
            200: {**_ANY_AUDIO, "description": "The file"},
            206: {**_ANY_AUDIO, "description": "The requested range"},
        },
    ),
)
@requires(Scope.READ)
def get_recording(
    conversion_id: ConversionId,
    number: Annotated[int, Path(ge=1, description="Place of the recording, from 1.")],
    request: Request,
    context: Context,
) -> Response:
    """Get a recording as it was sent, to listen to beside its result. Ranges are supported."""
    row = context.conversions.get(conversion_id)
    if number > len(row.inputs):
        raise NotFound(f"the conversion {conversion_id} has {len(row.inputs)} recordings")
    recording = row.inputs[number - 1]
    media_type = mimetypes.guess_type(recording["name"])[0] or ""
    is_media = media_type.startswith(("audio/", "video/"))  # a page of this site must never be a user's file
    return file_response(
        request,
        _stored(context, recording),
        recording["bytes"],
        media_type=media_type if is_media else "application/octet-stream",
        headers={"Content-Disposition": content_disposition(recording["name"]), "Cache-Control": "private, no-cache"},
    )


def _stored(context: AppContext, file: dict[str, Any]) -> FilePath:
    """The file of a recording or a result. Gone."""
    path = context.storage.resolve(file["path"])
    if not path.is_file():
        raise Gone(f"the file {file['name']!r} is no longer stored")
    return path
