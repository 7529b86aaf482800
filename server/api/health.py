"""Routes for monitoring: liveness, readiness, metrics."""

from fastapi import APIRouter, Response

from rvc_train.schemas.access import Scope
from rvc_train.schemas.system import Health
from server.api.authorization import require_principal
from server.context import Context
from server.errors import ScopeMissing
from server.metrics import MEDIA_TYPE

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="health_live")
async def live() -> Health:
    """Check that the process responds: on the event loop, without thread, connection, token or rate limit."""
    return Health(status="ok")


@router.get(
    "/metrics",
    operation_id="health_metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format"}},
)
def get_metrics(context: Context) -> Response:
    """Get metrics for Prometheus. Needs any token but one for a worker."""
    if not require_principal().has_scope(Scope.READ):
        raise ScopeMissing("metrics require a token with the scope read; the scope work is for workers alone")
    return Response(context.metrics.text(), media_type=MEDIA_TYPE)


@router.get(
    "/readyz",
    operation_id="health_ready",
    responses={503: {"model": Health, "description": "Not ready; see `checks` for the reason"}},
)
async def ready(response: Response, context: Context) -> Health:
    """Check that the database is writable, its schema is current, and the disk has free space."""
    checks = await context.readiness.checks()
    if all(check == "ok" for check in checks.values()):
        return Health(status="ok", checks=checks)
    response.status_code = 503
    return Health(status="unavailable", checks=checks)
