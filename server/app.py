"""Assembly of the HTTP service: the one module that imports every room."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import structlog
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from server.admin import job_weights, scheduler, store_upkeep
from server.admin.leadership import Leadership
from server.admin.readiness import Readiness, sqlite_warning
from server.admin.retention import Retention
from server.admin.scheduler import CLEANUP_SECONDS, EXPIRY_SECONDS, PeriodicTask, Scheduler
from server.admin.weights import WeightsFetcher
from server.api import (
    datasets,
    health,
    pages,
    problems,
    retention,
    system,
    uploads,
    webhooks,
    weights,
    workers,
)
from server.api.access import owners, session, tokens
from server.api.authorization import check_access
from server.api.conversions import audio, conversions
from server.api.jobs import estimates, evaluations, events, feed, jobs, logs, queue, results
from server.api.remote_workers import conversions as remote_conversion_routes
from server.api.remote_workers import jobs as remote_job_routes
from server.api.remote_workers import queue as remote_queue_routes
from server.api.remote_workers import workers as remote_worker_routes
from server.api.voices import bundles, links, shared, voices
from server.auth.audit import AuditTrail
from server.auth.authentication import AuthMiddleware, AuthThrottle
from server.auth.principal import current_rights
from server.auth.quotas import Quotas
from server.auth.tokens import TokenService
from server.base_weights.service import BaseWeightsService
from server.blobs.address import open_blobs
from server.context import AppContext, refuse_unknown_parameters
from server.conversions.service import ConversionService
from server.database.changes import ChangeCounter
from server.database.clock import database_clock, utc_now
from server.database.engine import create_engine
from server.datasets import ingestion, validator
from server.datasets.admission import Admissions
from server.datasets.consents import Consents
from server.datasets.ingestion import Ingestion
from server.datasets.service import DatasetService
from server.datasets.validator import DatasetValidator
from server.estimates.calibrations import Calibrations
from server.estimates.dry_run import EstimateService
from server.estimates.estimates import Estimator
from server.fetching.fetcher import DatasetFetcher
from server.fetching.service import Fetches
from server.http import threads
from server.http.problem_details import install
from server.http.query_parameters import QueryParameters
from server.http.rate_limit import OpenLimit
from server.http.sse import SseResponder
from server.job_store.counts import fold_counts
from server.job_store.idempotency import InFlightKeys
from server.job_store.liveness import WorkerLiveness
from server.job_store.queries import JobQueries
from server.job_store.thinning import thin_events
from server.jobs.event_feed import align_positions
from server.jobs.event_stream import EventBroadcaster
from server.jobs.retry import RetryService
from server.jobs.service import JobService
from server.metrics import METHODS, Metrics
from server.middleware.compression import Compression
from server.middleware.departures import Departures
from server.middleware.head import HeadAsGet
from server.middleware.idempotency import IdempotencyMiddleware
from server.middleware.languages import Languages
from server.middleware.media_types import BodyTypes
from server.middleware.request_context import RequestContextMiddleware
from server.middleware.shared_answers import SharedAnswers
from server.openapi import EXPOSED_HEADERS, document
from server.pages import shells
from server.remote_workers.conversions import RemoteConversions
from server.remote_workers.files import FileHashes
from server.remote_workers.jobs import RemoteJobs
from server.remote_workers.keys import WorkerKeys
from server.remote_workers.waiting import WaitingClaims
from server.remote_workers.workers import RemoteWorkers
from server.settings import ServerSettings
from server.storage.instances import open_instance
from server.storage.local import Storage
from server.storage.orphans import SCAN_SECONDS, Orphans
from server.storage.reservations import Reservations
from server.storage.sizes import JobSizes
from server.uploads import protocol
from server.uploads.receive import UploadLocks
from server.uploads.service import UploadService
from server.voices.bundles import BundleService
from server.voices.imports import ImportService
from server.voices.links import LinkService
from server.voices.queries import VoiceQueries
from server.voices.service import VoiceService
from server.webhooks import delivery
from server.webhooks.delivery import Deliverer
from server.webhooks.service import WebhookService

logger = structlog.get_logger(__name__)

NUM_CONNECTIONS = (
    threads.NUM_THREADS
    + datasets.NUM_ADMITTING
    + ingestion.NUM_THREADS
    + validator.NUM_THREADS
    + delivery.NUM_THREADS
    + scheduler.MAX_THREADS
)
"""One database connection per thread, so that no thread waits for another's."""
NUM_IDLE_CONNECTIONS = 20
"""Connections that stay open between requests."""
STOP_SECONDS = 2.0
"""Time for all parts of the service to stop, also where a disk hangs. With the seconds for open requests, and those in
which such a disk lets no process end, it stays under the ten of `docker stop`."""
DESCRIPTION = "Upload recordings of a voice, submit a job, watch it, download the voice."

_MODULES = (
    jobs,
    datasets,
    uploads,
    estimates,
    events,
    feed,
    logs,
    results,
    evaluations,
    queue,
    workers,
    system,
    weights,
    conversions,
    audio,
    bundles,
    links,
    voices,
    webhooks,
    retention,
    owners,
    tokens,
    session,
    remote_worker_routes,
    remote_queue_routes,
    remote_job_routes,
    remote_conversion_routes,
)
"""Modules with the routes under `/v1`, in the order of the OpenAPI document, in which a route is looked for too."""


def create_app(settings: ServerSettings) -> FastAPI:
    """The service for these settings. Opens and starts nothing before its lifespan begins."""
    context = _build_context(settings)
    app = FastAPI(
        title="rvc-train",
        version=version("rvc-train"),
        description=DESCRIPTION,
        webhooks=webhooks.messages,
        lifespan=partial(_lifespan, context),
        redirect_slashes=False,
        docs_url=None,  # the page at /docs loads nothing from other hosts
        redoc_url=None,
        middleware=[
            *_cross_origin(settings),
            Middleware(RequestContextMiddleware, metrics=context.metrics),
            Middleware(HeadAsGet, except_under=protocol.ADDRESS),
            Middleware(Compression),
            Middleware(Languages),
            Middleware(protocol.TusProtocol),
            Middleware(Departures),
            Middleware(
                AuthMiddleware,
                settings=settings,
                tokens=context.tokens,
                throttle=context.auth_throttle,
                version=context.changes.current,
            ),
            Middleware(BodyTypes),
            Middleware(IdempotencyMiddleware, engine=context.engine, in_flight=context.in_flight_keys, clock=utc_now),
            Middleware(SharedAnswers, version=context.changes.current, caller=current_rights),
        ],
    )
    app.state.context = context
    install(app)
    app.add_exception_handler(404, pages.missing)
    app.openapi = partial(document, app)  # type: ignore[method-assign] # FastAPI's documented way
    for module in _MODULES:
        app.include_router(
            module.router, prefix="/v1", dependencies=[Depends(refuse_unknown_parameters), Depends(check_access)]
        )
    for router in (uploads.options, session.sign_in, shared.router, health.router, problems.router):
        app.include_router(router, dependencies=[Depends(refuse_unknown_parameters)])
    app.include_router(pages.router)
    app.mount(shells.ADDRESS, shells.Assets(directory=shells.STATIC))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


def _cross_origin(settings: ServerSettings) -> Iterator[Middleware]:
    """CORS for the configured origins: with a token, never with the session's cookie."""
    if settings.cors_origins:
        yield Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=sorted(METHODS - {"OPTIONS"}),
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )


@asynccontextmanager
async def _lifespan(context: AppContext, _app: FastAPI) -> AsyncIterator[None]:
    """Open database and data folder, run the background threads while the service runs, and stop them at the end."""
    current_default_thread_limiter().total_tokens = threads.NUM_READERS
    await run_in_threadpool(_open, context)
    settings, engine = context.settings, context.engine
    leadership = context.leadership
    deliverer = Deliverer(engine, settings, utc_now, leadership.is_leading)
    task_scheduler = Scheduler(
        context.jobs,
        context.uploads,
        deliverer,
        context.retention,
        settings,
        *_periodic_tasks(context),
        leads=leadership.is_leading,
        on_every_server=_tasks_on_every_server(context),
    )
    for start in (leadership.start, context.ingestion.start, context.dataset_validator.start, task_scheduler.start):
        start()
    logger.info("the server is ready", data_folder=str(context.storage.root))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deliverer.run)
            tasks.start_soon(context.fetcher.run)
            yield
            tasks.cancel_scope.cancel()
    finally:
        context.stopping.set()
        with anyio.move_on_after(STOP_SECONDS):
            async with anyio.create_task_group() as background:
                for stop in (context.ingestion.stop, context.dataset_validator.stop, task_scheduler.stop):
                    background.start_soon(_stop, stop)
            for stop in (
                leadership.stop,
                context.tokens.clean_up,
                context.links.write_uses,
            ):  # it leads until its periodic tasks have ended
                await _stop(stop)
        context.changes.close()
        engine.dispose()
        logger.info("the server has stopped")


async def _stop(stop: Callable[[], object]) -> None:
    """Stop a part of the service in a thread, which is left alone where it takes too long."""
    await run_sync(stop, abandon_on_cancel=True)


# Long because it makes every service once.
def _build_context(settings: ServerSettings) -> AppContext:
    engine = create_engine(settings.url, NUM_CONNECTIONS, NUM_IDLE_CONNECTIONS)
    storage = Storage(settings.data_folder, open_blobs(settings.storage_url))
    clock = database_clock(engine)
    quotas = Quotas(engine, settings, clock)
    audit = AuditTrail(engine, utc_now)
    job_queries = JobQueries(engine)
    liveness = WorkerLiveness(settings.lease_seconds)
    calibrations = Calibrations(storage)
    estimator = Estimator(liveness, calibrations)
    job_service = JobService(
        engine,
        clock,
        max_recoveries=settings.max_recoveries,
        storage=storage,
        quotas=quotas,
        estimator=estimator,
        requires_consent=settings.require_consent,
    )
    leadership = Leadership(settings.url)
    dataset_service = DatasetService(job_service, storage)
    dataset_validator = DatasetValidator(dataset_service, storage, settings, leadership.is_leading)
    reservations = Reservations(storage, settings, utc_now)
    admissions = Admissions(engine, storage, settings, reservations, quotas, utc_now)
    ingestions = Ingestion(dataset_service, admissions, job_service, storage, dataset_validator, leadership.is_leading)
    fetches = Fetches(engine, storage, settings, admissions, reservations, quotas)
    bootstrap_token = None if settings.token is None else settings.token.get_secret_value()
    tokens = TokenService(engine, utc_now, bootstrap_token, settings.session_hours)
    link_service = LinkService(engine, utc_now)
    stopping = threading.Event()
    conversion_service = ConversionService(engine, storage, settings, quotas, liveness, clock)
    keys, hashes = WorkerKeys(engine, utc_now), FileHashes()
    remote_jobs = RemoteJobs(job_service, storage, keys, hashes)
    return AppContext(
        settings=settings,
        engine=engine,
        changes=ChangeCounter(engine),
        jobs=job_service,
        retries=RetryService(job_service, storage),
        in_flight_keys=InFlightKeys(),
        estimator=estimator,
        estimates=EstimateService(
            engine, estimator, storage, quotas, utc_now, requires_consent=settings.require_consent
        ),
        datasets=dataset_service,
        consents=Consents(engine, storage),
        admissions=admissions,
        ingestion=ingestions,
        fetches=fetches,
        fetcher=DatasetFetcher(fetches, ingestions, storage, settings, leadership.is_leading),
        uploads=UploadService(engine, storage, settings, reservations, quotas),
        upload_locks=UploadLocks(),
        webhooks=WebhookService(engine, utc_now),
        weights=WeightsFetcher(storage.weights_folder),
        base_weights=BaseWeightsService(engine, storage, settings, quotas, reservations, utc_now),
        conversions=conversion_service,
        voices=VoiceService(job_service, storage, utc_now),
        voice_queries=VoiceQueries(engine),
        links=link_service,
        bundles=BundleService(engine, storage),
        imports=ImportService(job_service, storage, settings, quotas, reservations, utc_now),
        link_throttle=AuthThrottle(settings.refusals_per_minute, audit, link_service.may_be_valid),
        retention=Retention(job_service, storage),
        tokens=tokens,
        quotas=quotas,
        audit=audit,
        auth_throttle=AuthThrottle(settings.refusals_per_minute, audit, tokens.may_be_valid),
        metrics=Metrics(engine, storage, liveness),
        storage=storage,
        job_queries=job_queries,
        leadership=leadership,
        worker_liveness=liveness,
        reservations=reservations,
        calibrations=calibrations,
        remote_workers=RemoteWorkers(
            job_service, conversion_service.queue, remote_jobs, storage, keys, settings.lease_seconds
        ),
        remote_jobs=remote_jobs,
        remote_conversions=RemoteConversions(conversion_service.queue, storage, keys, hashes),
        waiting_for_jobs=WaitingClaims(remote_jobs.count_due, stopping.is_set),
        waiting_for_conversions=WaitingClaims(conversion_service.queue.count_waiting, stopping.is_set),
        pages=shells.Pages(),
        event_broadcaster=EventBroadcaster(job_queries.events, settings.follow_poll_seconds),
        dataset_validator=dataset_validator,
        sse_responder=SseResponder(
            settings.follow_poll_seconds, settings.keep_alive_seconds, stopping, _stream_limit(settings.max_streams)
        ),
        open_uploads=_upload_limit(settings.max_uploads),
        readiness=Readiness(engine, storage, settings.disk_reserve_bytes),
        stopping=stopping,
        query_parameters=QueryParameters(),
        resource_owners={},
        admitting=anyio.CapacityLimiter(datasets.NUM_ADMITTING),
    )


def _upload_limit(most: int) -> OpenLimit:
    return OpenLimit(
        most, f"this server receives {most} of your uploads at the same time; send this one when one has ended"
    )


def _stream_limit(most: int) -> OpenLimit:
    return OpenLimit(most, f"this server sends you {most} streams at the same time; close one before you open another")


def _periodic_tasks(context: AppContext) -> Iterator[PeriodicTask]:
    """Periodic tasks of datasets, the audit trail and the disk."""
    settings = context.settings
    orphans = Orphans(context.engine, context.storage, settings.trash_days, settings.report_timeout_seconds)
    sizes = JobSizes(context.engine, context.storage, utc_now)
    yield CLEANUP_SECONDS, context.datasets.settle_waiting_jobs
    yield CLEANUP_SECONDS, sizes.measure
    yield CLEANUP_SECONDS, context.conversions.expire
    yield scheduler.reaper_interval(settings), scheduler.reaper_of(context.conversions.queue, settings).sweep
    yield job_weights.SECONDS, job_weights.JobWeights(context.jobs, context.weights, context.storage).settle
    yield EXPIRY_SECONDS, partial(context.audit.delete_old, settings.audit_days)
    yield SCAN_SECONDS, orphans.collect
    if context.storage.tier is not None:
        yield store_upkeep.SECONDS, store_upkeep.StoreUpkeep(context.engine, context.storage, settings).run
    yield CLEANUP_SECONDS, partial(fold_counts, context.engine)
    yield CLEANUP_SECONDS, partial(thin_events, context.engine, context.jobs.clock)


def _tasks_on_every_server(context: AppContext) -> list[PeriodicTask]:
    """Periodic tasks on what a server has in memory."""
    return [(CLEANUP_SECONDS, context.tokens.clean_up), (CLEANUP_SECONDS, context.links.write_uses)]


def _open(context: AppContext) -> None:
    context.tokens.instance_id = open_instance(context.engine, context.storage)
    align_positions(context.engine)
    context.changes.open()
    for sentence in context.jobs.publish_lease(context.settings.lease_seconds):
        logger.warning(sentence)
    for clean_up in (context.uploads.expire, context.datasets.delete_leftovers):
        clean_up()
    if (warning := sqlite_warning(context.engine)) is not None:
        logger.warning(warning)
