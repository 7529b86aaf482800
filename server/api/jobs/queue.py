"""Route of the queue."""

from fastapi import APIRouter

from rvc_train.schemas.access import Scope
from rvc_train.schemas.queue import QueuePublic
from server.api.authorization import require_principal, requires
from server.context import Context
from server.database.clock import utc_now
from server.database.engine import read_session
from server.jobs.serializers import queue_public

router = APIRouter(tags=["server"])


@router.get("/queue", operation_id="queue_get")
@requires(Scope.READ)
def get_queue(context: Context) -> QueuePublic:
    """Get your running and waiting jobs with places and forecasts, and the number of all jobs."""
    with read_session(context.engine) as session:
        return queue_public(
            session,
            context.estimator,
            utc_now(),
            context.worker_liveness,
            require_principal().visible_owner,
        )
