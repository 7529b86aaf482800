"""The gateway of a worker on another machine: a server's address and a token, and a folder for everything else.

    <folder>/<job id>/attempts/<token>/    files of an attempt; see `worker.gateway.remote_jobs`
    <folder>/<job id>/inputs/              recordings and other files that the server has of a job
    <folder>/conversions/, voices/         files of conversions; see `worker.gateway.remote_conversions`
    <folder>/workers/<worker id>.key       key of a worker, with which the next one hands back the work of a dead one

The folder is the worker's scratch folder, so that `worker.engine.workspaces` deletes what belongs to a job with it.
"""

import contextlib
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from rvc_engine.calibration.results import Calibration
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import FailureCode
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.leases import OutcomeReport
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER, MAX_WAIT_SECONDS, WORKER_KEY_HEADER, is_compatible
from rvc_train.schemas.work.workers import (
    CalibrationNeed,
    CalibrationReport,
    ConversionClaim,
    ConversionClaimed,
    GpuReport,
    HandedBack,
    HeldLease,
    JobClaim,
    JobClaimed,
    JobStatuses,
    LeasedJob,
    NeverClaimed,
    StatusesWanted,
    WorkerBeat,
    WorkerBeatAnswer,
    WorkerRegistered,
    WorkerRegistration,
    WorkServer,
)
from rvc_train.schemas.workers import Drain, GpuPublic
from worker.gateway.connection import Connection, Wait
from worker.gateway.errors import LeaseLost, SettingsRefused, Unavailable, first_line
from worker.gateway.interface import JobLease, RegisteredWorker, WorkerGateway
from worker.gateway.remote_conversions import HttpConversionLease
from worker.gateway.remote_jobs import HttpJobLease
from worker.gateway.types import Beat, Folders, PreviousEngine, WorkerDescription, WorkerFault
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)
A = TypeVar("A", bound=BaseModel)

STOP_CHECK_SECONDS = 0.1
_MANY = 1000
"""Jobs whose statuses are asked for in one request."""


class HttpGateway(WorkerGateway):
    """A server that is reached by its address."""

    def __init__(self, settings: WorkerSettings, connection: Connection, stop: threading.Event) -> None:
        """`stop`: set when the worker is to stop; a claim that waits ends then."""
        self._settings, self._connection, self._stop = settings, connection, stop
        root = (settings.scratch_folder or settings.data_folder).resolve()
        self.folders = Folders(root, root / "jobs", settings.data_folder.resolve() / "weights")

    @classmethod
    def connect(cls, settings: WorkerSettings, stop: threading.Event) -> "HttpGateway":
        """A gateway to the server in the settings. Raises SettingsRefused."""
        if settings.worker_server is None:
            raise AssertionError("the settings name a server")
        if settings.token is None:
            raise SettingsRefused(
                "a worker on another machine needs a token with the scope work: give one with --token or "
                "RVC_TRAIN_TOKEN; `rvc-train admin token create OWNER --scope work` makes it on the server's machine"
            )
        return cls(settings, Connection(settings.worker_server, settings.token.get_secret_value()), stop)

    def open(self) -> str | None:
        server = self._connection.ask(WorkServer, "GET", "/server", {})
        if not is_compatible(server.protocol):
            raise SettingsRefused(
                f"the server, rvc-train {server.version}, exchanges in version {server.protocol} with workers, and "
                f"this worker does not; install rvc-train {server.version} here"
            )
        return server.instance_id

    def register(self, worker: WorkerDescription) -> "HttpWorker":
        registration = WorkerRegistration.model_validate(asdict(worker))
        registered = self._connection.ask(WorkerRegistered, "POST", "/workers", {}, registration)
        key_file = self._key_file(registered.worker_id)
        with contextlib.suppress(OSError):  # without it the work of this process waits for its lease to end
            write_atomically(key_file, registered.key.encode())
            key_file.chmod(0o600)
        return HttpWorker(registered, worker.heartbeat_seconds, self._settings, self._connection, self._stop, self)

    def requeue_worker(self, worker_id: str) -> Sequence[str]:
        try:
            key = self._key_file(worker_id).read_text(encoding="utf-8")
        except FileNotFoundError:
            logger.warning("the work of a dead worker waits for its lease to end: its key is gone", worker=worker_id)
            return []
        headers = {WORKER_KEY_HEADER: key}
        answer = self._connection.ask(HandedBack, "POST", f"/workers/{worker_id}/hand-back", headers)
        self._key_file(worker_id).unlink(missing_ok=True)
        return answer.ids

    def _key_file(self, worker_id: str) -> Path:
        return self.folders.root / "workers" / f"{worker_id}.key"

    def statuses(self, job_ids: Collection[str]) -> Mapping[str, JobStatus]:
        found: dict[str, JobStatus] = {}
        wanted = list(job_ids)
        for start in range(0, len(wanted), _MANY):
            body = StatusesWanted(job_ids=wanted[start : start + _MANY])
            found |= self._connection.ask(JobStatuses, "POST", "/statuses", {}, body).statuses
        return found

    def lacks_calibration(self, device_name: str, version: str, torch: str | None, num_threads: int) -> bool:
        wanted = {"device_name": device_name, "version": version, "torch": torch, "num_threads": num_threads}
        parameters = {name: value for name, value in wanted.items() if value is not None}
        return self._connection.ask(CalibrationNeed, "GET", "/calibration", {}, parameters=parameters).is_missing

    def store_calibration(self, device_name: str, calibration: Calibration) -> None:
        report = CalibrationReport(device_name=device_name, calibration=calibration)
        self._connection.send("PUT", "/calibration", {}, report)

    def close(self) -> None:
        self._connection.close()


class HttpWorker(RegisteredWorker):
    """A worker that is registered on another machine."""

    def __init__(
        self,
        registered: WorkerRegistered,
        heartbeat_seconds: float,
        settings: WorkerSettings,
        connection: Connection,
        stop: threading.Event,
        gateway: HttpGateway,
    ) -> None:
        self.worker_id = registered.worker_id
        self._heartbeat_seconds, self._settings = heartbeat_seconds, settings
        self._connection, self._stop, self._gateway = connection, stop, gateway
        self._path, self._headers = f"/workers/{self.worker_id}", {WORKER_KEY_HEADER: registered.key}
        self._is_claiming = False
        """Whether a claim is open, which is a heartbeat of the worker."""
        self._drain: Drain | None = None
        self._wait_for_jobs, self._wait_for_conversions = (Wait(connection.new_client()) for _ in range(2))
        self._is_over = threading.Event()

    def heartbeat(self, lease: JobLease | None) -> Beat:
        if lease is None and self._is_claiming:
            return Beat(self._drain)
        assert lease is None or isinstance(lease, HttpJobLease)  # noqa: S101 - of this worker's claim
        held = None if lease is None else HeldLease(lease_id=lease.lease_id, key=lease.key)
        path = f"{self._path}/heartbeat"
        answer = self._connection.ask(WorkerBeatAnswer, "POST", path, self._headers, WorkerBeat(lease=held))
        self._drain = answer.drain
        return Beat(answer.drain, answer.command, answer.lost)

    def claim(self, *, is_repeated: bool = False, job_id: str | None = None) -> "HttpJobLease | None":
        root = self._gateway.folders.root
        (root / "conversions").mkdir(parents=True, exist_ok=True)  # a disk that cannot be written claims nothing
        seconds = 0.0 if is_repeated or job_id is not None else self._wait_seconds()
        body = JobClaim(is_repeated=is_repeated, job_id=job_id, wait_seconds=seconds)
        path = f"{self._path}/claims"
        self._is_claiming = seconds > 0
        try:
            answer = self._ask_and_wait(JobClaimed, path, body, self._wait_for_jobs, seconds)
        finally:
            self._is_claiming = False
        self._drain = answer.drain
        if answer.lease is None:
            return None
        leased = answer.lease
        lease = self._lease(leased)
        try:
            lease.attempt_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            with contextlib.suppress(LeaseLost):
                lease.finish(WorkerFault(FailureCode.DISK_FULL, f"the worker's folder cannot be written: {error}"))
            raise
        return lease

    def _lease(self, leased: LeasedJob) -> "HttpJobLease":
        """The lease of an answer. SettingsRefused, and the job goes back, for a config of a newer version."""
        try:
            config = TrainingConfig.model_validate(leased.config)
        except ValidationError as error:
            headers = {LEASE_KEY_HEADER: leased.key}
            report = OutcomeReport(outcome="released", message="its worker cannot read the job's config")
            self._connection.send("POST", f"/leases/{leased.lease_id}/finish", headers, report)
            raise SettingsRefused(
                f"the job {leased.job_id} has a config that this version cannot read ({error.errors()[0]['msg']}); "
                "install the server's version here"
            ) from error
        previous = leased.previous_engine
        home = self._gateway.folders.root / leased.job_id
        return HttpJobLease(
            job_id=leased.job_id,
            token=leased.token,
            attempt=leased.attempt,
            voice=leased.voice,
            config=config,
            max_duration_seconds=leased.max_duration_seconds,
            step_seconds=leased.step_seconds,
            previous_engine=None if previous is None else PreviousEngine(**previous.model_dump()),
            attempt_folder=home / "attempts" / f"{leased.token:06d}",
            lease_id=leased.lease_id,
            key=leased.key,
            home=home,
            connection=self._connection,
            statuses=self._gateway.statuses,
        )

    def _wait_seconds(self) -> float:
        """Longest wait of a claim: less where the worker ends by itself when it is idle."""
        settings = self._settings
        most = MAX_WAIT_SECONDS if settings.exit_when_idle_seconds is None else settings.exit_when_idle_seconds
        return min(MAX_WAIT_SECONDS, settings.claim_wait_seconds, most)

    def stop_waiting(self) -> None:
        self._is_over.set()

    def _ask_and_wait(self, shape: type[A], path: str, body: BaseModel, wait: Wait, seconds: float) -> A:
        """The answer to a request with which the server may wait; Unavailable when the worker is to stop meanwhile."""
        answer: Future[A] = Future()
        wait.seconds = seconds

        def run() -> None:
            try:
                answer.set_result(self._connection.ask(shape, "POST", path, self._headers, body, wait=wait))
            except Exception as error:  # noqa: BLE001 - raised in the thread that waits
                answer.set_exception(error)

        threading.Thread(target=run, name="claim", daemon=True).start()
        while True:
            with contextlib.suppress(TimeoutError):
                return answer.result(STOP_CHECK_SECONDS)
            if seconds and (self._stop.is_set() or self._is_over.is_set()):
                wait.give_up()
                raise Unavailable("the worker stops, and its claim was given up")

    def why_never_claimed(self, job_id: str) -> str | None:
        path = f"{self._path}/never-claimed"
        return self._connection.ask(NeverClaimed, "GET", path, self._headers, parameters={"job": job_id}).reason

    def claim_conversion(self, *, may_wait: bool = False) -> "HttpConversionLease | None":
        seconds = self._wait_seconds() if may_wait else 0.0
        body, path = ConversionClaim(wait_seconds=seconds), f"{self._path}/conversion-claims"
        leased = self._ask_and_wait(ConversionClaimed, path, body, self._wait_for_conversions, seconds).lease
        if leased is None:
            return None
        return HttpConversionLease.fetch(leased, self._gateway.folders.root, self._connection)

    def report_gpus(self, gpus: Sequence[GpuPublic]) -> None:
        self._connection.send("PUT", f"{self._path}/gpus", self._headers, GpuReport(gpus=list(gpus)))

    def deregister(self) -> None:
        try:
            self._connection.send("DELETE", self._path, self._headers)
        except SettingsRefused as error:  # as when its token was revoked: nothing more is to be had from the server
            logger.warning("the end of the worker was not recorded", reason=first_line(error))
