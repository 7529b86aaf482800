"""Routes of workers, the processes that run jobs."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.base import Page
from rvc_train.schemas.workers import Drain, WorkerPublic
from server.api.authorization import require_principal, requires
from server.context import Context
from server.database.clock import utc_now
from server.database.engine import read_session
from server.errors import NotFound
from server.http.lists import MAX_LONG_LIMIT, Cursors, LongLimit
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented
from server.jobs.serializers import workers_public
from server.workers.gpu_telemetry import with_gpus

router = RouterUnderV1(prefix="/workers", tags=["server"])

_CURSORS: Cursors[str] = Cursors("workers", str)


@router.get("", operation_id="workers_list")
@requires(Scope.READ)
def list_workers(
    request: Request,
    response: Response,
    context: Context,
    after: Annotated[str | None, Depends(_CURSORS)],
    limit: LongLimit = MAX_LONG_LIMIT,
) -> Page[WorkerPublic]:
    """List the workers seen within the last day, newest first."""
    with read_session(context.engine) as session:
        workers = workers_public(session, utc_now(), context.worker_liveness, require_principal().visible_owner)
    older = [worker for worker in workers if after is None or worker.id < after]
    data = with_gpus(older[:limit], context.storage, context.settings.lease_seconds)
    return _CURSORS.page(request, response, data, data[-1].id if len(older) > limit else None)


@router.post(
    "/{worker_id}/drain",
    operation_id="workers_drain",
    status_code=202,
    responses=documented(404, 409),
)
@requires(Scope.ADMIN)
def drain(
    worker_id: str,
    context: Context,
    mode: Annotated[
        Drain,
        Query(
            description="hand_back: its job stops after a checkpoint, and another worker continues it; no failure is "
            "counted. finish: it finishes its job first."
        ),
    ] = Drain.HAND_BACK,
) -> WorkerPublic:
    """Drain a worker: it claims no new job, releases or finishes its present one, and ends."""
    context.jobs.drain_worker(worker_id, mode)
    visible_owner = require_principal().visible_owner
    with read_session(context.engine) as session:
        found = workers_public(session, utc_now(), context.worker_liveness, visible_owner, only=worker_id)
    if not found:
        raise NotFound(f"there is no worker {worker_id}")
    return with_gpus(found, context.storage, context.settings.lease_seconds)[0]
