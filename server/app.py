"""Assembly of the HTTP service: the one module that imports every room."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import structlog
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from server.admin import scheduler
from server.admin.retention import Retention
from server.admin.scheduler import CLEANUP_SECONDS, EXPIRY_SECONDS, PeriodicTask, Scheduler
from server.admin.weights import WeightsFetcher
from server.api import datasets, health, pages, retention, system, uploads, webhooks, weights, workers
from server.api.access import owners, session, tokens
from server.api.authorization import check_access
from server.api.jobs import estimates, evaluations, events, jobs, logs, queue, results
from server.auth.audit import AuditTrail
from server.auth.authentication import AuthMiddleware, AuthThrottle
from server.auth.quotas import Quotas
from server.auth.tokens import TokenService
from server.context import AppContext
from server.database.clock import utc_now
from server.database.engine import create_engine, sqlite_warning
from server.datasets import ingestion, validator
from server.datasets.admission import Admissions
from server.datasets.ingestion import Ingestion
from server.datasets.service import DatasetService
from server.datasets.validator import DatasetValidator
from server.estimates.dry_run import EstimateService
from server.estimates.estimates import Estimator
from server.http.problem_details import install
from server.http.sse import SseResponder
from server.job_store.idempotency import InFlightKeys
from server.job_store.queries import JobQueries
from server.jobs.event_stream import EventBroadcaster
from server.jobs.retry import RetryService
from server.jobs.service import JobService
from server.metrics import Metrics
from server.middleware import RequestContextMiddleware
from server.openapi import document
from server.pages import shells
from server.settings import ServerSettings
from server.storage.instances import open_instance
from server.storage.local import Storage
from server.storage.orphans import SCAN_SECONDS, Orphans
from server.storage.reservations import Reservations
from server.storage.sizes import JobSizes
from server.uploads.receive import UploadLocks
from server.uploads.service import UploadService
from server.webhooks import delivery
from server.webhooks.delivery import Deliverer
from server.webhooks.service import WebhookService

logger = structlog.get_logger(__name__)

NUM_REQUEST_THREADS = 40
"""Threads that serve requests. Each uses one database connection at a time."""
NUM_CONNECTIONS = (
    NUM_REQUEST_THREADS
    + datasets.NUM_ADMITTING
    + ingestion.NUM_THREADS
    + validator.NUM_THREADS
    + delivery.NUM_THREADS
    + scheduler.MAX_THREADS
)
"""One database connection per thread, so that no thread waits for another's."""
DESCRIPTION = "Upload recordings of a voice, submit a job, watch it, download the voice."

_MODULES = (
    datasets,
    uploads,
    estimates,
    jobs,
    events,
    logs,
    results,
    evaluations,
    queue,
    workers,
    system,
    weights,
    webhooks,
    retention,
    owners,
    tokens,
    session,
)
"""Modules with the routes under `/v1`, in the order of the OpenAPI document."""


def create_app(settings: ServerSettings) -> FastAPI:
    """The service for these settings. Opens and starts nothing before its lifespan begins."""
    context = _build_context(settings)
    app = FastAPI(
        title="rvc-train",
        version=version("rvc-train"),
        description=DESCRIPTION,
        lifespan=partial(_lifespan, context),
        redirect_slashes=False,
        docs_url=None,  # the page at /docs loads nothing from other hosts
        redoc_url=None,
        middleware=[
            Middleware(RequestContextMiddleware, metrics=context.metrics),
            Middleware(AuthMiddleware, settings=settings, tokens=context.tokens, throttle=context.auth_throttle),
        ],
    )
    app.state.context = context
    install(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign] # FastAPI's documented way
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(check_access)])
    for module in _MODULES:
        v1.include_router(module.router)
    for router in (v1, session.sign_in, health.router, pages.router):
        app.include_router(router)
    app.mount(shells.ADDRESS, shells.Assets(directory=shells.STATIC))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


@asynccontextmanager
async def _lifespan(context: AppContext, _app: FastAPI) -> AsyncIterator[None]:
    """Open database and data folder, run the background threads while the service runs, and stop them at the end."""
    current_default_thread_limiter().total_tokens = NUM_REQUEST_THREADS
    await run_in_threadpool(_open, context)
    settings, engine = context.settings, context.engine
    deliverer = Deliverer(engine, settings, utc_now)
    tasks = _periodic_tasks(context)
    task_scheduler = Scheduler(context.jobs, context.uploads, deliverer, context.retention, settings, *tasks)
    for start in (context.ingestion.start, context.dataset_validator.start, task_scheduler.start):
        start()
    logger.info("the server is ready", data_folder=str(context.storage.root))
    try:
        async with anyio.create_task_group() as deliveries:
            deliveries.start_soon(deliverer.run)
            yield
            deliveries.cancel_scope.cancel()
    finally:
        context.stopping.set()
        background = (context.ingestion.stop, context.dataset_validator.stop, task_scheduler.stop)
        for stop in (*background, context.tokens.clean_up):
            await run_in_threadpool(stop)
        engine.dispose()
        logger.info("the server has stopped")


def _build_context(settings: ServerSettings) -> AppContext:
    engine = create_engine(settings.url, NUM_CONNECTIONS)
    storage = Storage(settings.data_folder)
    quotas = Quotas(engine, settings, utc_now)
    audit = AuditTrail(engine, utc_now)
    job_queries = JobQueries(engine)
    estimator = Estimator(settings.lease_seconds)
    job_service = JobService(
        engine,
        retry_delay_seconds=settings.retry_delay_seconds,
        max_recoveries=settings.max_recoveries,
        quotas=quotas,
        estimator=estimator,
    )
    dataset_service = DatasetService(job_service, storage)
    dataset_validator = DatasetValidator(dataset_service, storage, settings)
    reservations = Reservations(storage, settings, utc_now)
    admissions = Admissions(engine, storage, settings, reservations, quotas, utc_now)
    bootstrap_token = None if settings.token is None else settings.token.get_secret_value()
    stopping = threading.Event()
    return AppContext(
        settings=settings,
        engine=engine,
        jobs=job_service,
        retries=RetryService(job_service, storage),
        in_flight_keys=InFlightKeys(),
        estimator=estimator,
        estimates=EstimateService(engine, estimator, storage, quotas, utc_now),
        datasets=dataset_service,
        admissions=admissions,
        ingestion=Ingestion(dataset_service, admissions, job_service, storage, dataset_validator),
        uploads=UploadService(engine, storage, settings, reservations, quotas),
        upload_locks=UploadLocks(),
        webhooks=WebhookService(engine, utc_now),
        weights=WeightsFetcher(storage.weights_folder),
        retention=Retention(job_service, storage),
        tokens=TokenService(engine, utc_now, bootstrap_token, settings.session_hours),
        quotas=quotas,
        audit=audit,
        auth_throttle=AuthThrottle(settings.refusals_per_minute, audit),
        metrics=Metrics(engine, storage, settings.lease_seconds),
        storage=storage,
        job_queries=job_queries,
        pages=shells.Pages(),
        event_broadcaster=EventBroadcaster(job_queries.events, settings.follow_poll_seconds),
        dataset_validator=dataset_validator,
        sse_responder=SseResponder(settings.follow_poll_seconds, settings.keep_alive_seconds, stopping),
        stopping=stopping,
        admitting=anyio.CapacityLimiter(datasets.NUM_ADMITTING),
    )


def _periodic_tasks(context: AppContext) -> Iterator[PeriodicTask]:
    """Periodic tasks of tokens, the audit trail and the disk."""
    settings = context.settings
    orphans = Orphans(context.engine, context.storage, settings.trash_days, settings.report_timeout_seconds)
    sizes = JobSizes(context.engine, context.storage, utc_now)
    yield CLEANUP_SECONDS, context.tokens.clean_up
    yield CLEANUP_SECONDS, sizes.measure
    yield EXPIRY_SECONDS, partial(context.audit.delete_old, settings.audit_days)
    yield SCAN_SECONDS, orphans.collect


def _open(context: AppContext) -> None:
    open_instance(context.engine, context.storage)
    for clean_up in (context.uploads.expire, context.datasets.delete_leftovers):
        clean_up()
    if (warning := sqlite_warning(context.engine)) is not None:
        logger.warning(warning)
