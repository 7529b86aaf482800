"""Routes for monitoring: liveness, readiness, metrics."""

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from rvc_train.schemas.system import Health
from server.context import AppContext, Context
from server.database.engine import SCHEMA_VERSION, check_write, present_version
from server.metrics import MEDIA_TYPE

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> Health:
    """Check that the process responds: on the event loop, without thread, connection, token or rate limit."""
    return Health(status="ok")


@router.get(
    "/metrics",
    name="get_measures",  # the operation id that clients may have generated code from
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format"}},
)
def get_metrics(context: Context) -> Response:
    """Get metrics for Prometheus."""
    return Response(context.metrics.text(), media_type=MEDIA_TYPE)


@router.get("/readyz", responses={503: {"model": Health, "description": "Not ready; see `checks` for the reason"}})
def ready(response: Response, context: Context) -> Health:
    """Check that the database is writable, its schema is current, and the disk has free space."""
    checks = {"database": _check_database(context), "disk": _check_disk(context)}
    if all(check == "ok" for check in checks.values()):
        return Health(status="ok", checks=checks)
    response.status_code = 503
    return Health(status="unavailable", checks=checks)


def _check_database(context: AppContext) -> str:
    try:
        version = present_version(context.engine)
        if version != SCHEMA_VERSION:
            return f"the schema has version {version}, but this server needs {SCHEMA_VERSION}; restart the server"
        check_write(context.engine)
    except SQLAlchemyError as error:
        return f"the database does not answer: {type(error).__name__}"
    return "ok"


def _check_disk(context: AppContext) -> str:
    free = context.storage.free_bytes()
    reserve = context.settings.disk_reserve_bytes
    return "ok" if free >= reserve else f"{free} bytes are free, less than the reserve of {reserve}; free some space"
