"""Route for the dry run of a job."""

from typing import Any

from fastapi import APIRouter

from rvc_train.schemas.access import Scope
from rvc_train.schemas.queue import EstimateRequest, JobEstimate
from server.api.authorization import require_principal, requires
from server.context import Context
from server.http.problem_details import documented

router = APIRouter(tags=["jobs"])


@router.post("/jobs:estimate", operation_id="jobs_estimate", responses=documented(422))
@requires(Scope.READ)
def estimate(request: EstimateRequest, context: Context) -> JobEstimate:
    """Estimate a job: clips, steps, seconds, disk and memory as ranges, with warnings. Changes nothing.

    Takes the body of `POST /v1/jobs`. Clips, steps and seconds come from finished jobs with the same settings,
    or else from a calibration of the worker's device, and are `null` without both; disk and memory come from a rule of
    thumb. `missing_weights` are those that the server
    lacks: a job with `fetch_weights` downloads them.
    """
    principal = require_principal()
    whose: dict[str, Any] = {"owner": principal.owner, "visible_owner": principal.visible_owner}
    found = context.estimates.estimate(request, **whose)
    own = context.estimates.start_files(request, **whose)
    return found.model_copy(update={"missing_weights": context.weights.missing(request.config, own)})
