"""The application context of routes, built once by `server.app.create_app` and injected into each route."""

import threading
from dataclasses import dataclass
from typing import Annotated

import anyio
import sqlalchemy as sa
from fastapi import Depends, Request

from server.admin.leadership import Leadership
from server.admin.readiness import Readiness
from server.admin.retention import Retention
from server.admin.weights import WeightsFetcher
from server.auth.audit import AuditTrail
from server.auth.authentication import AuthThrottle
from server.auth.quotas import Quotas
from server.auth.tokens import TokenService
from server.base_weights.service import BaseWeightsService
from server.conversions.service import ConversionService
from server.database.changes import ChangeCounter
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
from server.http.query_parameters import QueryParameters
from server.http.rate_limit import OpenLimit
from server.http.sse import SseResponder
from server.job_store.idempotency import InFlightKeys
from server.job_store.liveness import WorkerLiveness
from server.job_store.queries import JobQueries
from server.jobs.event_stream import EventBroadcaster
from server.jobs.retry import RetryService
from server.jobs.service import JobService
from server.metrics import Metrics
from server.pages.shells import Pages
from server.remote_workers.conversions import RemoteConversions
from server.remote_workers.jobs import RemoteJobs
from server.remote_workers.waiting import WaitingClaims
from server.remote_workers.workers import RemoteWorkers
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations
from server.uploads.receive import UploadLocks
from server.uploads.service import UploadService
from server.voices.bundles import BundleService
from server.voices.imports import ImportService
from server.voices.links import LinkService
from server.voices.queries import VoiceQueries
from server.voices.service import VoiceService
from server.webhooks.service import WebhookService


@dataclass(frozen=True)
class AppContext:
    """Services and settings shared by all routes."""

    settings: ServerSettings
    engine: sa.Engine
    changes: ChangeCounter
    jobs: JobService
    retries: RetryService
    in_flight_keys: InFlightKeys
    estimator: Estimator
    estimates: EstimateService
    datasets: DatasetService
    consents: Consents
    admissions: Admissions
    ingestion: Ingestion
    fetches: Fetches
    fetcher: DatasetFetcher
    uploads: UploadService
    upload_locks: UploadLocks
    webhooks: WebhookService
    weights: WeightsFetcher
    base_weights: BaseWeightsService
    conversions: ConversionService
    voices: VoiceService
    voice_queries: VoiceQueries
    links: LinkService
    bundles: BundleService
    imports: ImportService
    link_throttle: AuthThrottle
    metrics: Metrics
    retention: Retention
    tokens: TokenService
    quotas: Quotas
    audit: AuditTrail
    auth_throttle: AuthThrottle
    storage: Storage
    job_queries: JobQueries
    leadership: Leadership
    worker_liveness: WorkerLiveness
    reservations: Reservations
    calibrations: Calibrations
    remote_workers: RemoteWorkers
    remote_jobs: RemoteJobs
    remote_conversions: RemoteConversions
    waiting_for_jobs: WaitingClaims
    waiting_for_conversions: WaitingClaims
    dataset_validator: DatasetValidator
    pages: Pages
    event_broadcaster: EventBroadcaster
    sse_responder: SseResponder
    open_uploads: OpenLimit
    readiness: Readiness
    stopping: threading.Event
    """Set when the server begins to stop: streams end."""
    query_parameters: QueryParameters
    resource_owners: dict[str, str]
    """Owners of resources that were asked for, by id."""
    admitting: anyio.CapacityLimiter
    """The limit of threads that hash uploads and read the directories of archives; other threads serve requests."""


async def _context(request: Request) -> AppContext:  # a coroutine, which needs no thread
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]
MAX_INTEGER = 2**62
"""Largest integer accepted in a query: below the database's 2**63 - 1, and exact as a float, as OpenAPI writes it."""


async def refuse_unknown_parameters(request: Request, context: Context) -> None:
    """Refuse query parameters that the route does not have: a dependency of all routes but pages."""
    context.query_parameters.check(request)
