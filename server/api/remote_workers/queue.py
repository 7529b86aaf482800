"""Route of the queue, for those who start workers for its jobs."""

from typing import Annotated

from fastapi import Query

from rvc_train.schemas.access import Scope
from rvc_train.schemas.work.queue import WaitingJobs
from server.api.authorization import requires
from server.api.remote_workers.access import worker_router
from server.context import Context

router = worker_router("")


@router.get("/queue", operation_id="worker_get_queue")
@requires(Scope.WORK)
def get_queue(
    context: Context, limit: Annotated[int, Query(ge=1, le=100, description="Most jobs in the answer.")] = 50
) -> WaitingJobs:
    """Get the first jobs that are due, with what each needs, to start workers for them."""
    return WaitingJobs(jobs=context.remote_jobs.waiting(limit))
