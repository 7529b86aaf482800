"""Dry run of a job: the time, disk and memory it would take, and warnings before its submission. Changes nothing."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session

from rvc_engine.errors import InvalidConfig, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights
from rvc_engine.weights.own import BASE_ROLES
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import Range, with_job_defaults
from rvc_train.schemas.queue import EstimateRequest, JobEstimate
from rvc_train.schemas.workers import num_sharing
from server.auth.quotas import Quotas
from server.database.engine import read_session
from server.database.tables import Dataset
from server.errors import QuotaExceeded, StorageQuotaExceeded
from server.estimates.durations import Bounds, Workload
from server.estimates.estimates import Estimator
from server.estimates.resources import batch_range, disk_bytes, least_memory_bytes, memory_bytes
from server.job_store.queries import consent_missing, usable_dataset
from server.job_store.serializers import notice_of
from server.job_store.starts import Start, find_start
from server.scheduling.resources import lacking, needs_of
from server.storage.local import Storage

StartFiles = tuple[Path | None, Path | None]
"""Generator and discriminator; None for a published one, or none."""


class EstimateService:
    """Dry runs of jobs on one server."""

    def __init__(
        self,
        engine: sa.Engine,
        estimator: Estimator,
        storage: Storage,
        quotas: Quotas,
        clock: Callable[[], datetime],
        *,
        requires_consent: bool = False,
    ) -> None:
        """`requires_consent` as in `JobService`."""
        self._requires_consent = requires_consent
        self._engine, self._estimator, self._storage = engine, estimator, storage
        self._quotas, self._clock = quotas, clock

    def estimate(self, request: EstimateRequest, *, owner: str, visible_owner: str | None) -> JobEstimate:
        """Estimate a job. Refused when its dataset is unknown or unusable, as for the job itself."""
        config, now = with_job_defaults(request.config), self._clock()
        with read_session(self._engine) as session:
            dataset = usable_dataset(session, request.dataset_id, visible_owner)
            workers = self._estimator.live_workers(session, now)
            workload = self._estimator.durations.of_dataset(
                session, config.model_dump(mode="json"), dataset.id, workers
            )
            needs = needs_of(request.resources, least_memory_bytes(request.config))
            starts_in = self._estimator.starts_in(session, owner, request.priority, needs.text, now)
            quota_warnings = self._quota_warnings(session, owner)
            own = _files(find_start(session, request, self._storage, owner, visible_owner))
        length = dataset.seconds
        jobs_per_device = max((num_sharing(worker.device_name) for worker in workers), default=1)
        has_gpu = any(worker.device.startswith("cuda") for worker in workers)
        batch = batch_range(config, has_gpu=has_gpu)
        disk = None if length is None else disk_bytes(config, length)
        return JobEstimate(
            dataset_status=DatasetStatus(dataset.status),
            speech_seconds=None if length is None else (dataset.report or {}).get("speech_seconds") or length,
            num_clips=None if workload is None else _range(workload.num_clips),
            steps=None if workload is None else _range(workload.steps),
            seconds=None if workload is None else workload.seconds.public(),
            starts_in=starts_in,
            disk_bytes=disk,
            gpu_memory_bytes=memory_bytes(config, batch, length),
            basis=None if workload is None else workload.basis,
            basis_detail=_basis_detail(workload, jobs_per_device),
            jobs_per_device=jobs_per_device,
            has_gpu=has_gpu,
            warnings=[
                *self._warnings(request, dataset, disk, own, has_worker=bool(workers)),
                *lacking(needs, workers),
                *quota_warnings,
            ],
        )

    def start_files(self, request: EstimateRequest, *, owner: str, visible_owner: str | None) -> StartFiles:
        """Files that the job would start from in place of published base weights. Refused as by `estimate`."""
        with read_session(self._engine) as session:
            return _files(find_start(session, request, self._storage, owner, visible_owner))

    def _warnings(
        self, request: EstimateRequest, dataset: Dataset, disk: Range | None, own: StartFiles, *, has_worker: bool
    ) -> Iterator[str]:
        if self._requires_consent and dataset.consent is None:
            yield consent_missing(dataset.id)
        if dataset.seconds is None:
            yield "the dataset's report is not ready yet; try again in a moment"
        yield from (dataset.report or {}).get("warnings", [])
        if disk is not None and disk.high > (free := self._storage.free_bytes()):
            yield f"the disk has {free / 1e9:.1f} GB free, and the job may take {disk.high / 1e9:.1f} GB"
        if not has_worker:
            yield "no worker is running; the job will wait until one is started"
        if (notice := notice_of(request.config.content)) is not None:
            yield notice
        try:
            folder = self._storage.weights_folder
            machine = Machine(weights_folder=folder, pretrained_g=own[0], pretrained_d=own[1])
            check_weights(request.config, machine)
        except MissingWeights as error:
            yield f"on the server's machine, {error}"
        except InvalidConfig as error:  # a missing package of the engine, which the workers may have
            yield f"on the server's machine, {error}; this matters only on the workers' machines"

    def _quota_warnings(self, session: Session, owner: str) -> list[str]:
        try:
            self._quotas.check_job(session, owner)
        except (QuotaExceeded, StorageQuotaExceeded) as error:
            return [str(error)]
        return []


def _files(start: Start | None) -> StartFiles:
    generator, discriminator = (None if start is None else start.files.get(role) for role in BASE_ROLES)
    return generator, discriminator


def _range(bounds: Bounds | None) -> Range | None:
    return None if bounds is None else Range(low=bounds[0], high=bounds[1])


def _basis_detail(workload: Workload | None, jobs_per_device: int) -> str:
    if workload is None:
        return "no job with these settings has finished on this server yet, so its duration is unknown"
    if jobs_per_device > 1:
        return (
            f"up to {jobs_per_device} jobs share a device here, so it depends on how many others run; "
            f"finished jobs on such a share: {workload.num_jobs}"
        )
    if workload.basis == "measured":
        return f"finished jobs with these settings on this server: {workload.num_jobs}"
    if workload.num_jobs:
        return f"the device's speed by its calibration and by jobs with other settings: {workload.num_jobs}"
    return "the device's speed by its calibration; no job has finished on it yet"
