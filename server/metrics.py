"""Prometheus metrics: requests counted as they finish; jobs, workers and the disk queried at each scrape."""

from collections import Counter as Counts
from collections.abc import Container, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from sqlalchemy.orm import Mapped
from sqlmodel import col, select

from rvc_engine.errors import FailureCode
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from rvc_train.schemas.webhooks import DeliveryStatus
from rvc_train.schemas.workers import WorkerPublic
from server.database.clock import utc_now
from server.database.engine import read_session
from server.database.tables import Conversion, Dataset, Delivery, Job, Worker
from server.job_store.counts import counts
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness
from server.jobs.serializers import workers_public
from server.scheduling.queue import IS_QUEUED, numbers_by_needs
from server.scheduling.resources import fits, parse_needs
from server.storage.local import Storage

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Values of the label `method`; a request's own word, which can be any, counts as `other`."""
OUTCOMES = ("succeeded", "failed", "cancelled", "paused", "queued", "lost")
"""Values of the label `outcome` of attempts. Like every series it exists from the start: Prometheus' functions of
changes (`delta`, `rate`) miss the first event of a series that begins with it."""

MAX_COUNTED = 500
"""Queued jobs that are counted of those that need the same."""
GPUS = ("0", "1", "2", "more")
"""Values of the label `gpus` of queued jobs."""
MAX_NODES = 200
"""Nodes with series of their own; those whose workers were seen longer ago count as the node `other`."""
WORKER_STATES = ("idle", "busy", "draining", "lost", "stopped")

_ERROR_CODE: Any = col(Conversion.error_code)


class StorageError(StrEnum):
    """Why the storage failed a request."""

    FULL = "full"
    FAILED = "failed"


class Metrics:
    """All metrics of one server."""

    def __init__(self, engine: sa.Engine, storage: Storage, liveness: WorkerLiveness) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_DatabaseCollector(engine, storage, liveness))
        self._requests = Histogram(
            "rvc_train_http_request_seconds",
            "Time to answer a request, by route; streams count until they end.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._server_errors = Counter(
            "rvc_train_http_server_errors",
            "Requests answered with a status of 500 or above.",
            registry=self._registry,
        )
        self._storage_errors = Counter(
            "rvc_train_storage_errors",
            "Requests that the server's storage failed: it was full, or a read or write failed.",
            ["kind"],
            registry=self._registry,
        )
        for kind in StorageError:
            self._storage_errors.labels(kind)

    def request(
        self, method: str, route: str, status: int | None, seconds: float, storage_error: StorageError | None = None
    ) -> None:
        """Count a request. `route` is the path's pattern, so that ids create no new series."""
        if storage_error is not None:
            self._storage_errors.labels(storage_error).inc()
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, "none" if status is None else str(status)).observe(seconds)
        if status is not None and status >= 500:
            self._server_errors.inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _DatabaseCollector(Collector):
    """Collector that queries the database at each scrape."""

    def __init__(self, engine: sa.Engine, storage: Storage, liveness: WorkerLiveness) -> None:
        self._engine, self._storage, self._liveness = engine, storage, liveness

    def describe(self) -> Iterator[Family]:
        """Yield nothing, so that registration does not query the database."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        """Yield the metric families."""
        with read_session(self._engine) as session:
            kept = counts(session)
        yield _family("jobs", "Jobs by status.", "status", list(JobStatus), kept["jobs"])
        yield self._counted(
            "datasets",
            "Datasets by status.",
            "status",
            list(DatasetStatus),
            col(Dataset.status),
            col(Dataset.deleted_at).is_(None),
        )
        yield _family("job_failures", "Failed jobs by code.", "code", list(FailureCode), kept["job_failures"])
        yield _family("attempts", "Attempts by outcome.", "outcome", list(OUTCOMES), kept["attempts"])
        claims = GaugeMetricFamily("rvc_train_claims", "Jobs that workers have taken: attempts, with those that run.")
        claims.add_metric(
            [], sum(kept["attempts"].values()) + sum(kept["jobs"].get(each, 0) for each in LEASED_STATUSES)
        )
        yield claims
        stale = GaugeMetricFamily("rvc_train_stale_writes", "Rejected writes of workers that had lost their lease.")
        stale.add_metric([], sum(kept["stale_writes"].values()))
        yield stale
        yield self._counted(
            "webhook_messages", "Webhook messages by status.", "status", list(DeliveryStatus), col(Delivery.status)
        )
        yield self._counted(
            "conversions",
            "Conversions by status; they are deleted a day after their end.",
            "status",
            list(ConversionStatus),
            col(Conversion.status),
        )
        yield self._counted(
            "conversion_failures",
            "Failed conversions by code.",
            "code",
            list(ConversionFailure),
            _ERROR_CODE,
            _ERROR_CODE.is_not(None),
        )
        yield from self._workers()
        yield self._queue_age()
        free = GaugeMetricFamily("rvc_train_disk_free_bytes", "Free bytes on the data folder's disk.")
        free.add_metric([], self._storage.free_bytes())
        yield free

    def _counted(
        self,
        name: str,
        text: str,
        label: str,
        values: Sequence[str],
        column: Mapped[str],
        *where: sa.ColumnElement[bool],
    ) -> GaugeMetricFamily:
        with read_session(self._engine) as session:
            query = sa.select(column, sa.func.count()).where(*where).group_by(column)
            numbers = {str(row[0]): row[1] for row in session.connection().execute(query)}
        return _family(name, text, label, values, numbers)

    def _workers(self) -> Iterator[Family]:
        """Workers, and the queue as they could run it."""
        with read_session(self._engine) as session:
            seen = workers_public(session, utc_now(), self._liveness)
        states: Counts[str] = Counts(worker.status for worker in seen)
        yield _family("workers", "Workers seen within a day, by state.", "state", WORKER_STATES, states)
        yield _by_node(seen)
        yield self._queue({worker.id for worker in seen if worker.status in {"idle", "busy"}})

    def _queue(self, alive: Container[str]) -> GaugeMetricFamily:
        """Queued jobs by what they need, of which `alive` are the workers that could run them."""
        with read_session(self._engine) as session:
            kinds = numbers_by_needs(session, MAX_COUNTED)
            rows = session.exec(select(Worker).where(col(Worker.last_seen_at) > utc_now() - FORGET_WORKERS_AFTER)).all()
        workers = [worker for worker in rows if worker.id in alive]
        numbers: Counts[tuple[str, str]] = Counts()
        for text, number in kinds.items():
            needs = parse_needs(text)
            gpus = GPUS[min(needs.gpus, len(GPUS) - 1)]
            numbers[gpus, "yes" if any(fits(needs, worker) for worker in workers) else "no"] += number
        text = (
            "Queued jobs by the GPUs that each needs, and by whether a worker that is alive could run them; of those "
            f"that need the same at most {MAX_COUNTED} are counted."
        )
        family = GaugeMetricFamily("rvc_train_queued_jobs", text, labels=["gpus", "has_worker"])
        for gpus in GPUS:
            for has_worker in ("yes", "no"):
                family.add_metric([gpus, has_worker], numbers[gpus, has_worker])
        return family

    def _queue_age(self) -> GaugeMetricFamily:
        with read_session(self._engine) as session:
            query = sa.select(sa.func.min(col(Job.queued_at))).where(IS_QUEUED)
            oldest = session.connection().execute(query).scalar()
        family = GaugeMetricFamily("rvc_train_queue_age_seconds", "Waiting time of the oldest queued job.")
        family.add_metric([], 0.0 if oldest is None else max(0.0, (utc_now() - oldest).total_seconds()))
        return family


def _by_node(workers: Sequence[WorkerPublic]) -> GaugeMetricFamily:
    """Workers by node and state: each node that has one has all states."""
    latest = sorted(workers, key=lambda worker: worker.last_seen_at, reverse=True)
    named = set(list(dict.fromkeys(worker.host for worker in latest))[:MAX_NODES])
    numbers: Counts[tuple[str, str]] = Counts(
        (worker.host if worker.host in named else "other", worker.status) for worker in workers
    )
    text = f"Workers seen within a day, by node and state; beyond {MAX_NODES} nodes they count as the node `other`."
    family = GaugeMetricFamily("rvc_train_node_workers", text, labels=["node", "state"])
    for node in sorted({node for node, _ in numbers}):
        for state in WORKER_STATES:
            family.add_metric([node, state], numbers[node, state])
    return family


def _family(name: str, text: str, label: str, values: Sequence[str], numbers: Mapping[str, int]) -> GaugeMetricFamily:
    """A gauge with a series for each of `values` and for each other label in `numbers`."""
    family = GaugeMetricFamily(f"rvc_train_{name}", text, labels=[label])
    for value in dict.fromkeys([*map(str, values), *sorted(numbers)]):
        family.add_metric([value], numbers.get(value, 0))
    return family
