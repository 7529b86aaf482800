"""A dry run of a job."""

from fastapi import APIRouter

from rvc_train.schemas.access import Scope
from rvc_train.schemas.queue import EstimateRequest, JobEstimate
from server.api.authorization import require_principal, requires
from server.context import Context
from server.http.problem_details import documented

router = APIRouter(tags=["jobs"])


@router.post("/jobs:estimate", responses=documented(422))
@requires(Scope.READ)
def estimate(request: EstimateRequest, context: Context) -> JobEstimate:
    """What a job would take: clips, steps, seconds, disk, memory, as ranges; and what should be known before.

    Takes what `POST /v1/jobs` takes, and changes nothing. Times come from earlier attempts with this setting on this
    kind of device, or else from others, or else from a rule of thumb; `basis` says from which.
    """
    principal = require_principal()
    return context.estimates.estimate(request, owner=principal.owner, visible_owner=principal.visible_owner)
