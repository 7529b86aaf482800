"""Routes under a lease on a job."""

from typing import Annotated

from fastapi import Path as InPath
from fastapi import Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.work.leases import (
    CheckpointCommit,
    EngineStarted,
    EventsReport,
    FileReceived,
    LogLines,
    OutcomeAnswer,
    OutcomeReport,
    StoredCheckpoints,
    WorkInputs,
)
from server.api.authorization import requires
from server.api.remote_workers.access import LeaseKey, worker_router
from server.api.remote_workers.transfer import DOWNLOAD, UPLOAD, Offset, Size, download, receive
from server.context import Context
from server.datasets.admission import full_disk_as_no_space
from server.http.problem_details import documented
from server.http.threads import on_disk

router = worker_router("/leases/{lease_id}")
LeaseId = Annotated[str, InPath(max_length=100, pattern=r"^job_[0-9a-f]{32}\.[0-9]{1,18}$")]


@router.post("/renew", operation_id="worker_renew_lease", status_code=204)
@requires(Scope.WORK)
def renew(lease_id: LeaseId, context: Context, key: LeaseKey) -> Response:
    """Renew a lease, outside of the worker's heartbeats."""
    context.jobs.heartbeat(context.remote_jobs.find_live(lease_id, key).lease)
    return Response(status_code=204)


@router.get("/inputs", operation_id="worker_list_inputs")
@requires(Scope.WORK)
async def list_inputs(lease_id: LeaseId, context: Context, key: LeaseKey) -> WorkInputs:
    """List the files that the engine reads."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    return await on_disk(context.remote_jobs.inputs, held)


@router.get("/recordings/{name}", operation_id="worker_download_recording", **DOWNLOAD)
@requires(Scope.WORK)
async def download_recording(
    lease_id: LeaseId, name: str, request: Request, context: Context, key: LeaseKey
) -> Response:
    """Get a file of the dataset. Its ETag is its sha256; ranges are supported."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    path = await on_disk(context.remote_jobs.recording, held, name)
    return await download(request, path, await on_disk(context.remote_jobs.describe, path))


@router.get("/start/{name}", operation_id="worker_download_start_file", **DOWNLOAD)
@requires(Scope.WORK)
async def download_start_file(
    lease_id: LeaseId, name: str, request: Request, context: Context, key: LeaseKey
) -> Response:
    """Get a file that the training starts from."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    path = await on_disk(context.remote_jobs.start_file, held, name)
    return await download(request, path, await on_disk(context.remote_jobs.describe, path))


@router.get("/checkpoints", operation_id="worker_list_checkpoints")
@requires(Scope.WORK)
async def list_checkpoints(lease_id: LeaseId, context: Context, key: LeaseKey) -> StoredCheckpoints:
    """List the newest checkpoints that the server has of the job."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    return await on_disk(context.remote_jobs.checkpoints, held)


@router.get("/checkpoints/{name}", operation_id="worker_download_checkpoint", **DOWNLOAD)
@requires(Scope.WORK)
async def download_checkpoint(
    lease_id: LeaseId, name: str, request: Request, context: Context, key: LeaseKey
) -> Response:
    """Get a file of the newest checkpoints."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    file = await on_disk(context.remote_jobs.checkpoint_file, held, name)
    return await download(request, await on_disk(context.remote_jobs.checkpoint_path, held, name), file)


@router.post("/checkpoints", operation_id="worker_store_checkpoint", status_code=204, responses=documented(507))
@requires(Scope.WORK)
async def store_checkpoint(lease_id: LeaseId, commit: CheckpointCommit, context: Context, key: LeaseKey) -> Response:
    """Store a checkpoint whose files were sent, in place of the oldest."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    with full_disk_as_no_space():
        await on_disk(context.remote_jobs.store_checkpoint, held, commit)
    return Response(status_code=204)


@router.get("/files/{sha256}", operation_id="worker_get_received")
@requires(Scope.WORK)
async def get_received(lease_id: LeaseId, sha256: str, context: Context, key: LeaseKey) -> FileReceived:
    """Get how much of a file the server has, to go on with it."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    received, is_complete = await on_disk(context.remote_jobs.received, held, sha256)
    return FileReceived(received_bytes=received, is_complete=is_complete)


@router.put("/files/{sha256}", operation_id="worker_send_file", **UPLOAD)
@requires(Scope.WORK)
async def send_file(
    lease_id: LeaseId, sha256: str, request: Request, context: Context, key: LeaseKey, offset: Offset, size: Size
) -> FileReceived:
    """Send the bytes of a file from an offset on. What arrived stays after a broken connection."""
    held = await on_disk(context.remote_jobs.find, lease_id, key)
    incoming = context.remote_jobs.incoming(held)
    received, is_complete = await on_disk(context.remote_jobs.received, held, sha256)
    if is_complete:
        return FileReceived(received_bytes=received, is_complete=True)
    return await receive(request, context, incoming, f"{lease_id}/{sha256}", sha256, offset, size)


@router.put("/engine", operation_id="worker_record_engine", status_code=204)
@requires(Scope.WORK)
def record_engine(lease_id: LeaseId, engine: EngineStarted, context: Context, key: LeaseKey) -> Response:
    """Record the attempt's engine process, which the next attempt ends if it outlives its worker."""
    lease = context.remote_jobs.find_live(lease_id, key).lease
    context.jobs.record_engine_process(lease, engine.pid, engine.started_at)
    return Response(status_code=204)


@router.post("/events", operation_id="worker_record_events", status_code=204, responses=documented(507))
@requires(Scope.WORK)
def record_events(lease_id: LeaseId, report: EventsReport, context: Context, key: LeaseKey) -> Response:
    """Record a batch of the engine's events; a number that was recorded changes nothing."""
    held = context.remote_jobs.find_live(lease_id, key)
    with full_disk_as_no_space():
        context.remote_jobs.record(held, report)
    return Response(status_code=204)


@router.post("/log", operation_id="worker_append_log", status_code=204, responses=documented(507))
@requires(Scope.WORK)
def append_log(lease_id: LeaseId, lines: LogLines, context: Context, key: LeaseKey) -> Response:
    """Append lines to the job's log; lines that are repeated count once."""
    held = context.remote_jobs.find(lease_id, key)
    with full_disk_as_no_space():
        context.remote_jobs.append_log(held, lines.offset, lines.text)
    return Response(status_code=204)


@router.post("/finish", operation_id="worker_finish_job")
@requires(Scope.WORK)
def finish(lease_id: LeaseId, report: OutcomeReport, context: Context, key: LeaseKey) -> OutcomeAnswer:
    """End the attempt."""
    held = context.remote_jobs.find(lease_id, key)
    return OutcomeAnswer(status=context.remote_jobs.finish(held, report))
