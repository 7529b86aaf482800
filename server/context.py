"""What routes work with, made once by `server.app.create_app` and handed to each by dependency."""

import threading
from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, Query, Request, Response

from server.admin.retention import Retention
from server.admin.weights import WeightsFetcher
from server.auth.audit import AuditTrail
from server.auth.quotas import Quotas
from server.auth.throttle import Refusals
from server.auth.tokens import TokenBook
from server.datasets.service import DatasetShelf
from server.datasets.validator import Examiner
from server.estimates.queue_forecast import Outlook
from server.estimates.service import Forecaster
from server.http.sse import Streamer
from server.job_store.idempotency import UnderWay
from server.job_store.queries import History
from server.jobs.event_stream import Feeds
from server.jobs.retry import Retries
from server.jobs.service import JobBook
from server.metrics import Measures
from server.pages.shells import Pages
from server.settings import ServerSettings
from server.storage.local import Storage
from server.uploads.receive import Receptions
from server.uploads.service import UploadShelf
from server.webhooks.service import WebhookBook


@dataclass(frozen=True)
class Services:
    """Everything that a route may need."""

    settings: ServerSettings
    engine: sa.Engine
    book: JobBook
    retries: Retries
    under_way: UnderWay
    outlook: Outlook
    forecaster: Forecaster
    shelf: DatasetShelf
    uploads: UploadShelf
    receptions: Receptions
    webhooks: WebhookBook
    weights: WeightsFetcher
    measures: Measures
    retention: Retention
    tokens: TokenBook
    quotas: Quotas
    audit: AuditTrail
    refusals: Refusals
    storage: Storage
    history: History
    examiner: Examiner
    pages: Pages
    feeds: Feeds
    streamer: Streamer
    stopping: threading.Event
    """Set when the server begins to stop: streams end."""


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
MAX_INTEGER = 2**62
"""The largest that may be asked about: less than the database's 2**63 - 1, and exact as a float, as OpenAPI has it."""
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
After = Annotated[str | None, Query(max_length=64, description="The cursor that the page before gave.")]


def link_next(request: Request, response: Response, cursor: str | None) -> None:
    """Say where the next page is, in a `Link` header."""
    if cursor is not None:
        response.headers["Link"] = f'<{request.url.include_query_params(after=cursor)}>; rel="next"'
