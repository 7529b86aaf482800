"""Workers on other machines: registration, heartbeats and the end, each with the key of the worker."""

import time
from collections.abc import Sequence

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.workers import HeldLease, WorkerBeatAnswer, WorkerRegistered, WorkerRegistration
from rvc_train.schemas.workers import Drain, GpuPublic, WorkerCommand
from server.conversions.queue import ConversionQueue
from server.database.clock import utc_now
from server.errors import DataAway, LeaseLost, NotFound
from server.jobs.service import JobService
from server.remote_workers.jobs import RemoteJobs
from server.remote_workers.keys import WorkerKeys
from server.storage.instances import is_joined
from server.storage.local import Storage
from server.workers.gpu_telemetry import delete_gpu_telemetry, write_gpu_telemetry

SHARE_OF_LEASE = 0.4
"""Share of a lease after which a claim counts as a heartbeat again: each is a write, and most workers are idle."""


class RemoteWorkers:
    """Requests of workers on other machines beside those under leases."""

    def __init__(
        self,
        jobs: JobService,
        conversions: ConversionQueue,
        leases: RemoteJobs,
        storage: Storage,
        keys: WorkerKeys,
        lease_seconds: float,
    ) -> None:
        self._jobs, self._conversions, self._leases = jobs, conversions, leases
        self._storage, self._keys, self._lease_seconds = storage, keys, lease_seconds
        self._seen: dict[str, tuple[float, Drain | None]] = {}
        """Time of the last recorded heartbeat of each worker, and the drain that it found."""

    def register(self, worker: WorkerRegistration) -> WorkerRegistered:
        """Register a worker. SettingsRefused when the lease is too short for its heartbeats."""
        worker_id = self._jobs.register_worker(**worker.model_dump())
        return WorkerRegistered(worker_id=worker_id, key=self.key_of(worker_id))

    def key_of(self, worker_id: str) -> str:
        """The key of a worker."""
        return self._keys.key_of(worker_id)

    def check(self, worker_id: str, key: str) -> None:
        """Raise NotFound for a wrong key."""
        self._keys.check(worker_id, key)

    def beat(self, worker_id: str, lease: HeldLease | None) -> WorkerBeatAnswer:
        """Renew the registration, and the lease on a job. NotFound for a lease with a wrong key."""
        drain = self._beat(worker_id)
        if lease is None:
            return WorkerBeatAnswer(drain=drain, command=WorkerCommand.NONE, lost=None)
        try:
            command = self._jobs.heartbeat(self._leases.find_live(lease.lease_id, lease.key).lease)
        except LeaseLost as error:
            return WorkerBeatAnswer(drain=drain, command=WorkerCommand.NONE, lost=str(error))
        return WorkerBeatAnswer(drain=drain, command=command, lost=None)

    def beat_by_claim(self, worker_id: str) -> Drain | None:
        """Count a claim as a heartbeat, unless that was done a moment ago; returns the mode of its drain."""
        at, drain = self._seen.get(worker_id, (float("-inf"), None))
        if time.monotonic() - at < self._lease_seconds * SHARE_OF_LEASE:
            return drain
        return self._beat(worker_id)

    def _beat(self, worker_id: str) -> Drain | None:
        try:
            drain = self._jobs.worker_heartbeat(worker_id)
        except NotFound:  # forgotten: the worker ends
            drain = Drain.FINISH
        self._seen[worker_id] = time.monotonic(), drain
        return drain

    def report_gpus(self, worker_id: str, gpus: Sequence[GpuPublic]) -> None:
        """Replace the reading of the worker's GPUs. OSError."""
        write_gpu_telemetry(self._storage, worker_id, gpus, utc_now())

    def deregister(self, worker_id: str) -> None:
        """Record the clean end of a worker."""
        self._seen.pop(worker_id, None)
        delete_gpu_telemetry(self._storage, utc_now(), worker_id)
        self._jobs.deregister_worker(worker_id)

    def hand_back(self, worker_id: str) -> list[str]:
        """Hand back the work of a worker whose process has ended; returns the ids of its jobs and conversions."""
        self._seen.pop(worker_id, None)
        return [*self._conversions.requeue_worker(worker_id), *self._jobs.requeue_worker(worker_id)]

    def statuses(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Statuses of those jobs that there are. DataAway: a disk may be unmounted, or the database replaced."""
        if not is_joined(self._jobs.engine, self._storage):
            raise DataAway("data folder and database do not have the same id any more; mount the server's disk")
        found = {}
        for job_id in job_ids:
            try:
                found[job_id] = JobStatus(self._jobs.get(job_id).status)
            except NotFound:
                continue
        return found
