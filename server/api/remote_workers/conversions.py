"""Routes under a lease on a conversion."""

from typing import Annotated

from fastapi import Path as InPath
from fastapi import Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.work.leases import (
    ConversionBeat,
    ConversionBeatAnswer,
    ConversionEnded,
    ConversionFailed,
    ConversionResults,
    FileReceived,
)
from server.api.authorization import requires
from server.api.remote_workers.access import LeaseKey, worker_router
from server.api.remote_workers.transfer import DOWNLOAD, UPLOAD, Offset, Size, download, receive
from server.context import Context
from server.datasets.admission import full_disk_as_no_space
from server.http.problem_details import documented
from server.http.threads import on_disk

router = worker_router("/conversions/{lease_id}")
LeaseId = Annotated[str, InPath(max_length=100, pattern=r"^cnv_[0-9a-f]{32}\.[0-9]{1,18}$")]


@router.get("/voice/{name}", operation_id="worker_download_voice", **DOWNLOAD)
@requires(Scope.WORK)
async def download_voice(lease_id: LeaseId, name: str, request: Request, context: Context, key: LeaseKey) -> Response:
    """Get a file of the voice: `voice`, `checkpoint` or `index`."""
    held = await on_disk(context.remote_conversions.find, lease_id, key)
    path, file = await on_disk(context.remote_conversions.voice_file, held, name)
    return await download(request, path, file)


@router.get("/recordings/{number}", operation_id="worker_download_conversion_recording", **DOWNLOAD)
@requires(Scope.WORK)
async def download_recording(
    lease_id: LeaseId,
    number: Annotated[int, InPath(ge=0, le=10_000, description="Number of a recording, from 0.")],
    request: Request,
    context: Context,
    key: LeaseKey,
) -> Response:
    """Get a recording to convert."""
    held = await on_disk(context.remote_conversions.find, lease_id, key)
    path, file = await on_disk(context.remote_conversions.recording, held, number)
    return await download(request, path, file)


@router.get("/files/{sha256}", operation_id="worker_get_converted_received")
@requires(Scope.WORK)
async def get_received(lease_id: LeaseId, sha256: str, context: Context, key: LeaseKey) -> FileReceived:
    """Get how much of a result the server has, to go on with it."""
    held = await on_disk(context.remote_conversions.find, lease_id, key)
    incoming = context.remote_conversions.incoming(held)
    received = await on_disk(incoming.received, sha256)
    return FileReceived(received_bytes=received, is_complete=await on_disk(incoming.is_complete, sha256))


@router.put("/files/{sha256}", operation_id="worker_send_converted", **UPLOAD)
@requires(Scope.WORK)
async def send_file(
    lease_id: LeaseId, sha256: str, request: Request, context: Context, key: LeaseKey, offset: Offset, size: Size
) -> FileReceived:
    """Send the bytes of a result from an offset on."""
    held = await on_disk(context.remote_conversions.find, lease_id, key)
    incoming = context.remote_conversions.incoming(held)
    if await on_disk(incoming.is_complete, sha256):
        return FileReceived(received_bytes=size, is_complete=True)
    return await receive(request, context, incoming, f"{lease_id}/{sha256}", sha256, offset, size)


@router.post("/heartbeat", operation_id="worker_beat_conversion")
@requires(Scope.WORK)
def beat(lease_id: LeaseId, beat: ConversionBeat, context: Context, key: LeaseKey) -> ConversionBeatAnswer:
    """Renew the lease, with the share that is done."""
    held = context.remote_conversions.find(lease_id, key)
    return ConversionBeatAnswer(is_over=context.remote_conversions.beat(held, beat.progress))


@router.post("/finish", operation_id="worker_finish_conversion", responses=documented(507))
@requires(Scope.WORK)
def finish(lease_id: LeaseId, results: ConversionResults, context: Context, key: LeaseKey) -> ConversionEnded:
    """End the conversion with its results, whose files were sent."""
    held = context.remote_conversions.find(lease_id, key)
    with full_disk_as_no_space():
        return ConversionEnded(status=context.remote_conversions.finish(held, results))


@router.post("/fail", operation_id="worker_fail_conversion", status_code=204)
@requires(Scope.WORK)
def fail(lease_id: LeaseId, failure: ConversionFailed, context: Context, key: LeaseKey) -> Response:
    """End the conversion as failed."""
    context.remote_conversions.fail(context.remote_conversions.find(lease_id, key), failure.code, failure.message)
    return Response(status_code=204)


@router.post("/release", operation_id="worker_release_conversion", status_code=204)
@requires(Scope.WORK)
def release(lease_id: LeaseId, context: Context, key: LeaseKey) -> Response:
    """Give the conversion back, for another worker."""
    context.remote_conversions.release(context.remote_conversions.find(lease_id, key))
    return Response(status_code=204)
