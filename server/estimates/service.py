"""The dry run of a job: what it would take, and what should be known before it is submitted. Changes nothing."""

from collections.abc import Callable, Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session

from rvc_engine.errors import InvalidConfig, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.queue import EstimateRequest, JobEstimate
from server.auth.quotas import Quotas
from server.database.engine import read_session
from server.database.tables import Dataset
from server.errors import QuotaExceeded, StorageQuotaExceeded
from server.estimates.estimator import AudioStats, audio_stats
from server.estimates.queue_forecast import QueueForecast
from server.estimates.resources import disk_bytes, memory_bytes
from server.estimates.throughput import batch_range
from server.job_store.lookups import usable_dataset
from server.job_store.serializers import notice_of
from server.storage.local import Storage


class EstimateService:
    """Dry runs of jobs on one server."""

    def __init__(
        self,
        engine: sa.Engine,
        queue_forecast: QueueForecast,
        storage: Storage,
        quotas: Quotas,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine, self._queue_forecast, self._storage = engine, queue_forecast, storage
        self._quotas, self._clock = quotas, clock

    def estimate(self, request: EstimateRequest, *, owner: str, visible_owner: str | None) -> JobEstimate:
        """What the job would take. Refused when its dataset is unknown or unusable, as for the job itself."""
        config, now = request.config, self._clock()
        with read_session(self._engine) as session:
            dataset = usable_dataset(session, request.dataset_id, visible_owner)
            context = self._queue_forecast.estimator.context(session, now)
            audio = audio_stats(session, [dataset.id]).get(dataset.id)
            effort = None if audio is None else context.workload(config, audio)
            step = context.throughput.step(config, context.devices)
            starts_in = self._queue_forecast.new_job_starts_in(session, request.priority, now)
            quota = self._quota_warning(session, owner)
            has_worker = bool(self._queue_forecast.estimator.workers(session, now))
        disk = None if audio is None else disk_bytes(config, audio.seconds)
        made = JobEstimate(
            dataset_status=DatasetStatus(dataset.status),
            speech_seconds=None if audio is None else audio.speech_seconds,
            num_clips=None if audio is None else audio.clips,
            steps=None if effort is None else effort.steps,
            seconds=None if effort is None else effort.seconds,
            starts_in=starts_in,
            disk_bytes=disk,
            gpu_memory_bytes=memory_bytes(
                config, batch_range(config, context.devices), None if audio is None else audio.seconds
            ),
            basis=step.basis,
            basis_detail=step.detail,
            warnings=[],
        )
        warnings = [*self._warnings(request, dataset, audio, made, has_worker=has_worker), *quota]
        return made.model_copy(update={"warnings": warnings})

    def _warnings(
        self,
        request: EstimateRequest,
        dataset: Dataset,
        audio: AudioStats | None,
        made: JobEstimate,
        *,
        has_worker: bool,
    ) -> Iterator[str]:
        if audio is None:
            yield "the dataset's report is not there yet; ask again in a moment"
        yield from (dataset.report or {}).get("warnings", [])
        if made.disk_bytes is not None and made.disk_bytes.high > (free := self._storage.free_bytes()):
            yield f"the disk has {free / 1e9:.1f} GB free, and the job may take {made.disk_bytes.high / 1e9:.1f} GB"
        if not has_worker:
            yield "no worker lives; the job would wait until one is started"
        if (notice := notice_of(request.config.content)) is not None:
            yield notice
        try:
            check_weights(request.config, Machine(weights_folder=self._storage.weights_folder))
        except MissingWeights as error:
            yield f"on the server's machine, {error}"
        except InvalidConfig as error:  # a package of the engine: it may well be where the workers are
            yield f"on the server's machine, {error}; what counts is the worker's"

    def _quota_warning(self, session: Session, owner: str) -> list[str]:
        try:
            self._quotas.check_job(session, owner)
        except (QuotaExceeded, StorageQuotaExceeded) as error:
            return [str(error)]
        return []
