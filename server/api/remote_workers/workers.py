"""Routes of a worker by itself: registration, heartbeats, claims."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, TypeVar

import anyio
from fastapi import Query, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.work.protocol import PROTOCOL
from rvc_train.schemas.work.workers import (
    CalibrationNeed,
    CalibrationReport,
    ConversionClaim,
    ConversionClaimed,
    GpuReport,
    HandedBack,
    JobClaim,
    JobClaimed,
    JobStatuses,
    NeverClaimed,
    StatusesWanted,
    WorkerBeat,
    WorkerBeatAnswer,
    WorkerRegistered,
    WorkerRegistration,
    WorkServer,
)
from server.api.authorization import requires
from server.api.remote_workers.access import WorkerKey, worker_router
from server.context import Context
from server.datasets.admission import full_disk_as_no_space
from server.http.problem_details import documented
from server.http.threads import to_write
from server.remote_workers.waiting import WaitingClaims

router = worker_router("")
T = TypeVar("T")


@router.get("/server", operation_id="worker_get_server")
@requires(Scope.WORK)
async def get_server(context: Context) -> WorkServer:
    """Get the id of the installation and the version of the exchange."""
    return WorkServer(instance_id=context.tokens.instance_id, protocol=PROTOCOL, version=version("rvc-train"))


@router.post("/statuses", operation_id="worker_get_statuses")
@requires(Scope.WORK)
def get_statuses(wanted: StatusesWanted, context: Context) -> JobStatuses:
    """Get the statuses of jobs by their ids, so that a worker deletes the folders of those that have ended."""
    return JobStatuses(statuses=context.remote_workers.statuses(wanted.job_ids))


@router.get("/calibration", operation_id="worker_needs_calibration")
@requires(Scope.WORK)
def needs_calibration(
    context: Context,
    device_name: Annotated[str, Query(max_length=255, description="Model of the device.")],
    version: Annotated[str, Query(max_length=255, description="Version of rvc-train.")],
    num_threads: Annotated[int, Query(ge=0, le=100_000, description="CPU threads of an engine.")],
    torch: Annotated[str | None, Query(max_length=255, description="Version of PyTorch; left out: any.")] = None,
) -> CalibrationNeed:
    """Whether the speed of a device was not measured yet with these versions."""
    is_missing = context.calibrations.is_missing(device_name, version, torch, num_threads)
    return CalibrationNeed(is_missing=is_missing)


@router.put("/calibration", operation_id="worker_store_calibration", status_code=204, responses=documented(507))
@requires(Scope.WORK)
def store_calibration(report: CalibrationReport, context: Context) -> Response:
    """Store the speed of a device, for estimates of jobs."""
    with full_disk_as_no_space():
        context.calibrations.write(report.device_name, report.calibration)
    return Response(status_code=204)


@router.post("/workers", operation_id="worker_register")
@requires(Scope.WORK)
def register(worker: WorkerRegistration, context: Context) -> WorkerRegistered:
    """Register a worker. Its further requests show the key in the answer."""
    return context.remote_workers.register(worker)


@router.delete("/workers/{worker_id}", operation_id="worker_deregister", status_code=204)
@requires(Scope.WORK)
def deregister(worker_id: str, context: Context, key: WorkerKey) -> Response:
    """Record the clean end of a worker."""
    context.remote_workers.check(worker_id, key)
    context.remote_workers.deregister(worker_id)
    return Response(status_code=204)


@router.post("/workers/{worker_id}/hand-back", operation_id="worker_hand_back")
@requires(Scope.WORK)
def hand_back(worker_id: str, context: Context, key: WorkerKey) -> HandedBack:
    """Hand back the work of a worker whose process has ended, as its machine found out."""
    context.remote_workers.check(worker_id, key)
    return HandedBack(ids=context.remote_workers.hand_back(worker_id))


@router.post("/workers/{worker_id}/heartbeat", operation_id="worker_heartbeat")
@requires(Scope.WORK)
def heartbeat(worker_id: str, beat: WorkerBeat, context: Context, key: WorkerKey) -> WorkerBeatAnswer:
    """Renew the registration of a worker and its lease on a job; the answer has commands, or that the lease is lost."""
    context.remote_workers.check(worker_id, key)
    return context.remote_workers.beat(worker_id, beat.lease)


@router.put("/workers/{worker_id}/gpus", operation_id="worker_report_gpus", status_code=204, responses=documented(507))
@requires(Scope.WORK)
def report_gpus(worker_id: str, reading: GpuReport, context: Context, key: WorkerKey) -> Response:
    """Replace the reading of a worker's GPUs."""
    context.remote_workers.check(worker_id, key)
    with full_disk_as_no_space():
        context.remote_workers.report_gpus(worker_id, reading.gpus)
    return Response(status_code=204)


@router.get("/workers/{worker_id}/never-claimed", operation_id="worker_why_never_claimed")
@requires(Scope.WORK)
def why_never_claimed(
    worker_id: str,
    context: Context,
    key: WorkerKey,
    job: Annotated[str, Query(max_length=100, description="Id of a job.")],
) -> NeverClaimed:
    """Why a worker cannot claim a job, now or later."""
    context.remote_workers.check(worker_id, key)
    return NeverClaimed(reason=context.jobs.why_never_claimed(job, worker_id))


@router.post("/workers/{worker_id}/claims", operation_id="worker_claim_job", responses=documented(507))
@requires(Scope.WORK)
async def claim_job(worker_id: str, claim: JobClaim, request: Request, context: Context, key: WorkerKey) -> JobClaimed:
    """Claim the next job that a worker can run; waits for one up to the seconds in the request."""
    await to_write(context.remote_workers.check, worker_id, key)
    drain = await to_write(context.remote_workers.beat_by_claim, worker_id)

    def attempt() -> JobClaimed | None:
        with full_disk_as_no_space():
            lease = context.remote_jobs.claim(worker_id, is_repeated=claim.is_repeated, job_id=claim.job_id)
        return None if lease is None else JobClaimed(lease=lease, drain=drain)

    found = await _claim(attempt, context.waiting_for_jobs, request, 0 if drain else claim.wait_seconds)
    return found or JobClaimed(lease=None, drain=drain)


@router.post(
    "/workers/{worker_id}/conversion-claims", operation_id="worker_claim_conversion", responses=documented(507)
)
@requires(Scope.WORK)
async def claim_conversion(
    worker_id: str, claim: ConversionClaim, request: Request, context: Context, key: WorkerKey
) -> ConversionClaimed:
    """Claim the next conversion; waits for one up to the seconds in the request."""
    await to_write(context.remote_workers.check, worker_id, key)

    def attempt() -> ConversionClaimed | None:
        if not context.conversions.queue.has_waiting():
            return None
        with full_disk_as_no_space():
            lease = context.remote_conversions.claim(worker_id)
        return None if lease is None else ConversionClaimed(lease=lease)

    found = await _claim(attempt, context.waiting_for_conversions, request, claim.wait_seconds)
    return found or ConversionClaimed(lease=None)


async def _claim(attempt: Callable[[], T | None], waiting: WaitingClaims, request: Request, seconds: float) -> T | None:
    """Try to claim until it succeeds, `seconds` are over, or the worker has left: nothing is claimed for it then."""
    deadline = anyio.current_time() + seconds
    while True:
        found = await to_write(attempt)
        left = deadline - anyio.current_time()
        if found is not None or left <= 0:
            return found
        async with _until_departure(request) as scope:
            if not await waiting.turn(left):
                return None
        if scope.cancelled_caught:
            return None


@asynccontextmanager
async def _until_departure(request: Request) -> AsyncIterator[anyio.CancelScope]:
    """A block that ends when the client closes its connection."""
    with anyio.CancelScope() as scope:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            scope.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield scope
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
