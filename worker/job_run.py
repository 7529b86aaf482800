"""One attempt at a claimed job, from the end of an older engine to the report of the outcome.

end the old engine -> restore its checkpoint -> start an engine -> supervise it -> report the outcome
"""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from rvc_engine.child_processes import engine_environment, variable_names
from rvc_engine.errors import EngineError, FailureCode
from rvc_engine.workspace.atomic_files import write_atomically
from server.errors import LeaseLost, NotFound
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.results.checkpoints import StoredCheckpoints
from server.storage.local import Storage, is_disk_full
from server.storage.trash import Trash
from worker.engine.checkpoint_sync import CheckpointSync
from worker.engine.job_log import JobLog
from worker.engine.outcome import Failure, Released, StopReason, Success, decide_outcome
from worker.engine.process import EngineExit, EngineProcess, terminate_stale_engine
from worker.engine.workspaces import Workspaces
from worker.hardware.devices import device_environment, engine_device
from worker.reporting.event_reporter import EventReporter
from worker.reporting.heartbeat import Heartbeat
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings
from worker.supervision import Supervisor

logger = structlog.get_logger(__name__)

LAST_COPY_SECONDS = 120
"""Time to copy the last checkpoint out of the workspace before the job is released."""


class JobRun:
    """One attempt at one job."""

    def __init__(
        self,
        settings: WorkerSettings,
        job_service: JobService,
        storage: Storage,
        workspaces: Workspaces,
        lease: Lease,
        heartbeat: Heartbeat,
        is_draining: Callable[[], bool],
    ) -> None:
        self._settings, self._jobs, self._storage, self._workspaces = settings, job_service, storage, workspaces
        self._lease, self._heartbeat, self._is_draining = lease, heartbeat, is_draining
        self._workspace = workspaces.workspace(lease)
        self._reporter = EventReporter(job_service, storage, lease, self._workspace.root, workspaces.spool(lease))
        self._stop_reason: StopReason | None = None

    def run(self) -> None:
        """Run the job and report the outcome; after the loss of the lease nothing more is written."""
        try:
            self._run()
        except LeaseLost:
            logger.warning("the lease was lost; nothing more is written", job_id=self._lease.job_id)
            self._stop_reason = StopReason.LOST
        finally:
            self._reporter.close()
        if self._stop_reason is StopReason.LOST:
            retry_until_available(self._remove_if_deleted, give_up=self._is_draining)

    def _run(self) -> None:
        with closing(self._open_log()) as log:
            log.line("info", f"attempt {self._lease.attempt} of the job {self._lease.job_id} on {socket.gethostname()}")
            self._terminate_stale_engine(log)
            engine_exit = self._prepare(log) or self._run_engine(log)
            if self._stop_reason is not StopReason.LOST:
                give_up = Deadline(self._settings.stop_seconds, self._must_stop)
                retry_until_available(lambda: self._report(engine_exit, log), give_up=give_up)

    def _open_log(self) -> JobLog:
        try:
            return JobLog(self._storage.job_log(self._lease.job_id))
        except FileNotFoundError as error:
            raise LeaseLost(f"the job {self._lease.job_id} was deleted") from error

    def _remove_if_deleted(self) -> None:
        """Move what a deleted job's engine wrote until it was stopped to the trash."""
        try:
            self._jobs.get(self._lease.job_id)
        except NotFound:
            if (home := self._storage.job_home(self._lease.job_id)).exists():
                Trash(self._storage.root).add(home, "jobs")

    def _terminate_stale_engine(self, log: JobLog) -> None:
        """End an engine that an earlier attempt left running on this machine: two must not write to one workspace."""
        old = retry_until_available(lambda: self._jobs.previous_engine(self._lease), give_up=self._is_draining)
        if old is None or old.host != socket.gethostname():
            return
        if terminate_stale_engine(old.pid, old.started_at, self._settings.stop_seconds):
            log.line("warning", f"the engine of an earlier attempt still ran (process {old.pid}); it was ended")

    def _prepare(self, log: JobLog) -> Failure | None:
        """Restore the last checkpoint of an attempt on another machine; the failure when that is not possible."""
        try:
            self._storage.delete_partial_files(self._lease.job_id, self._lease.token)
            restored = self._workspaces.prepare(self._lease, self._settings.lock_wait_seconds)
        except EngineError as error:
            return Failure(error.code, str(error))
        except OSError as error:
            code = FailureCode.DISK_FULL if is_disk_full(error) else FailureCode.INTERNAL
            return Failure(code, f"the job's last checkpoint cannot be restored into the workspace: {error}")
        if restored is not None:
            log.line("info", f"restored the checkpoint of step {restored.step} from the storage")
        return None

    def _run_engine(self, log: JobLog) -> EngineExit | Failure:
        try:
            engine = EngineProcess(self._command(), self._environment(), log, self._lease.step_seconds)
        except OSError as error:
            return Failure(FailureCode.INTERNAL, f"the engine cannot be started ({error}); repair the installation")
        stored = StoredCheckpoints(self._storage, self._lease.job_id)
        sync = CheckpointSync(stored, self._workspace, self._lease.token)
        supervisor = Supervisor(
            self._settings, self._lease, engine, self._reporter, sync, self._heartbeat, self._is_draining
        )
        try:
            self._record_process(engine)
            return supervisor.run()
        finally:
            self._stop_reason = supervisor.stop_reason
            engine.close()
            if not sync.finish(LAST_COPY_SECONDS):
                logger.warning("the last checkpoint is still being copied", job_id=self._lease.job_id)

    def _command(self) -> list[str]:
        lease, storage = self._lease, self._storage
        config = storage.attempt_folder(lease.job_id, lease.token) / "config.json"
        content = json.dumps(lease.config.model_dump(mode="json"), indent=2).encode()
        write_atomically(config, content, make_folder=False)
        options = {
            "--workspace": self._workspace.root,
            "--dataset": storage.dataset_folder(lease.dataset_id),
            "--voice": lease.voice,
            "--config": config,
            "--device": engine_device(self._settings.device),
            "--weights": self._settings.weights_folder or storage.weights_folder,
            "--cache": storage.cache_folder(lease.dataset_id),
            "--threads": self._settings.num_threads,
            "--lock-wait": self._settings.lock_wait_seconds,
        }
        if self._settings.content_folder is not None:
            options["--content-folder"] = self._settings.content_folder
        # One argument each, so that a value which begins with a dash is still a value.
        arguments = [f"{option}={value}" for option, value in options.items()]
        return [*self._settings.engine_command, *arguments, "--events"]

    def _environment(self) -> dict[str, str]:
        """Environment of an engine: allowed variables, the worker's GPUs alone, threads that sleep while they wait."""
        allowed = engine_environment(os.environ, variable_names(self._settings.engine_environment or ""))
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(self._settings.num_threads)}
        return allowed | threads | device_environment(self._settings.device, os.environ) | {"PYTHONUNBUFFERED": "1"}

    def _record_process(self, engine: EngineProcess) -> None:
        """Record the engine's process for later attempts; until then its own lock guards the workspace."""
        pid, started_at = engine.pid, engine.started_at
        retry_until_available(
            lambda: self._jobs.record_engine_process(self._lease, pid, started_at), give_up=self._must_stop
        )
        logger.info("engine started", job_id=self._lease.job_id, attempt=self._lease.attempt, pid=pid)

    def _must_stop(self) -> bool:
        return self._is_draining() or self._heartbeat.is_lost

    def _report(self, engine_exit: EngineExit | Failure, log: JobLog) -> None:
        """Record the last events and the outcome of the attempt. Raises DATABASE_UNAVAILABLE, LeaseLost."""
        self._reporter.flush()
        outcome = decide_outcome(engine_exit, self._stop_reason, self._reporter, self._lease.max_duration_seconds)
        job_service, lease = self._jobs, self._lease
        match outcome:
            case Success():
                job_service.succeed(lease)
                logger.info("job succeeded", job_id=lease.job_id)
            case Released():
                status = job_service.release(lease, outcome.why)
                log.line("info", f"the engine stopped: {outcome.why}")
                logger.info("job released", job_id=lease.job_id, reason=outcome.why, status=str(status))
            case Failure():
                status = job_service.fail(lease, outcome.code, outcome.message)
                log.line("error", f"attempt failed ({outcome.code}): {outcome.message}")
                logger.warning("attempt failed", job_id=lease.job_id, code=str(outcome.code), status=str(status))


class Deadline:
    """Deadline that runs only once the worker must stop: true when `seconds` have passed since then."""

    def __init__(self, seconds: float, must_stop: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._must_stop = must_stop
        self._since: float | None = None

    def __call__(self) -> bool:
        if not self._must_stop():
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > self._seconds
