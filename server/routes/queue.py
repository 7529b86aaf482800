"""What runs and what waits."""

from fastapi import APIRouter

from server.access import present, requires
from server.access_schemas import Scope
from server.book import utc_now
from server.database import read_session
from server.job_views import queue_public
from server.schemas import QueuePublic
from server.services import ServicesDep

router = APIRouter(tags=["server"])


@router.get("/queue")
@requires(Scope.READ)
def get_queue(services: ServicesDep) -> QueuePublic:
    """What runs and what waits: your jobs, with their places and when they may start; and how many there are of all."""
    with read_session(services.engine) as session:
        return queue_public(session, services.outlook, utc_now(), services.settings.lease_seconds, present().sees)
