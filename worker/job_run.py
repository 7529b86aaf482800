"""One attempt at a claimed job, from the end of an older engine to the report of the outcome.

end the old engine -> restore its checkpoint -> start an engine -> supervise it -> report the outcome

A server or disk that is unavailable is waited for; any other error of the worker is raised.
"""

import os
import socket
import time
from collections.abc import Callable
from contextlib import closing

import structlog

from rvc_engine.checkpoints.manifest import CheckpointEntry
from rvc_engine.child_processes import engine_environment, variable_names
from rvc_engine.errors import EngineError, FailureCode
from rvc_engine.workspace.disk import is_disk_full
from rvc_train.schemas.workers import WorkerCommand
from worker.conversions.placement import TrainingState
from worker.engine.checkpoint_sync import CheckpointSync
from worker.engine.job_log import JobLog
from worker.engine.outcome import StopReason, decide_outcome
from worker.engine.process import EngineExit, EngineProcess, terminate_stale_engine
from worker.engine.slots import Slot
from worker.engine.workspaces import Workspaces
from worker.gateway.errors import LeaseLost, is_transient
from worker.gateway.interface import JobLease
from worker.gateway.types import Failure, Folders, JobInputs, Released, Success
from worker.hardware.devices import device_environment, engine_device
from worker.reporting.event_reporter import EventReporter
from worker.reporting.heartbeat import Heartbeat
from worker.reporting.retry import retry_transient, retry_until_available
from worker.settings import WorkerSettings
from worker.supervision import Supervisor, requested_stop

logger = structlog.get_logger(__name__)

LAST_COPY_SECONDS = 120
"""Time to copy the last checkpoint out of the workspace before the job is released."""


class JobRun:
    """One attempt at one job."""

    def __init__(
        self,
        settings: WorkerSettings,
        folders: Folders,
        workspaces: Workspaces,
        slot: Slot,
        lease: JobLease,
        heartbeat: Heartbeat,
        is_draining: Callable[[], bool],
        training: TrainingState,
    ) -> None:
        self._training = training
        lease.on_progress = heartbeat.turn
        self._settings, self._folders, self._workspaces = settings, folders, workspaces
        self._slot, self._lease, self._heartbeat, self._is_draining = slot, lease, heartbeat, is_draining
        self._workspace = workspaces.workspace(lease)
        self._reporter = EventReporter(lease, self._workspace.root, workspaces.spool(lease), heartbeat.turn)
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
            retry_until_available(self._lease.clear_if_deleted, give_up=self._must_stop)

    def _run(self) -> None:
        with closing(retry_transient(self._open_log, give_up=self._disk_wait())) as log:
            log.line("info", f"attempt {self._lease.attempt} of the job {self._lease.job_id} on {socket.gethostname()}")
            self._terminate_stale_engine(log)
            prepared = self._prepare(log)
            engine_exit = prepared if isinstance(prepared, Failure) else self._run_engine(prepared, log)
            if self._stop_reason is not StopReason.LOST:
                self._report_when_possible(engine_exit, log)

    def _open_log(self) -> JobLog:
        return JobLog(self._lease.open_log(), self._lease.job_id)

    def _terminate_stale_engine(self, log: JobLog) -> None:
        """End an engine that an earlier attempt left running on this machine: two must not write to one workspace."""
        old = self._lease.previous_engine
        if old is None or old.host != socket.gethostname():
            return
        if terminate_stale_engine(old.pid, old.started_at, self._settings.stop_seconds):
            log.line("warning", f"the engine of an earlier attempt still ran (process {old.pid}); it was ended")

    def _prepare(self, log: JobLog) -> JobInputs | Failure:
        """Fetch the job's files, and restore the last checkpoint of an attempt on another machine.

        Returns the failure when that is not possible. Raises LeaseLost, as for a worker that hung until now: its files
        would replace those of its successor.
        """
        retry_until_available(self._lease.renew, give_up=self._must_stop)
        try:
            inputs, restored = retry_transient(self._fetch, give_up=self._disk_wait())
        except EngineError as error:
            return Failure(error.code, str(error))
        except OSError as error:
            self._stop_reason = requested_stop(self._heartbeat, self._is_draining)
            if self._stop_reason is None and not is_disk_full(error):
                raise
            message = f"the job's last checkpoint cannot be restored into the workspace: {error}"
            return Failure(FailureCode.DISK_FULL, message)
        self._heartbeat.turn()
        if restored is not None:
            log.line("info", f"restored the checkpoint of step {restored.step} from the storage")
        return inputs

    def _fetch(self) -> tuple[JobInputs, CheckpointEntry | None]:
        inputs = self._lease.inputs()
        return inputs, self._workspaces.prepare(self._lease, self._settings.lock_wait_seconds)

    def _run_engine(self, inputs: JobInputs, log: JobLog) -> EngineExit | Failure:
        try:
            engine = EngineProcess(self._command(inputs), self._environment(), log, self._lease.step_seconds)
        except OSError as error:
            if is_transient(error):
                raise
            return Failure(FailureCode.INTERNAL, f"the engine cannot be started ({error}); repair the installation")
        self._slot.add_engine(engine.pid, self._lease)
        sync = CheckpointSync(self._lease, self._workspace)
        supervisor = Supervisor(
            self._settings,
            self._lease,
            engine,
            self._reporter,
            sync,
            self._heartbeat,
            self._is_draining,
            self._training,
        )
        try:
            self._record_process(engine)
            return supervisor.run()
        finally:
            self._stop_reason = supervisor.stop_reason
            engine.close()
            self._slot.remove_engine(engine.pid)
            self._heartbeat.turn()
            if not sync.finish(LAST_COPY_SECONDS):
                logger.warning("the last checkpoint is still being copied", job_id=self._lease.job_id)

    def _command(self, inputs: JobInputs) -> list[str]:
        options: dict[str, object] = {
            "--workspace": self._workspace.root,
            "--dataset": inputs.recordings,
            "--voice": self._lease.voice,
            "--config": inputs.config,
            "--provenance": inputs.provenance,
            "--device": engine_device(self._settings.device),
            "--weights": self._settings.weights_folder or self._folders.weights,
            "--cache": inputs.cache,
            "--threads": self._settings.num_threads,
            "--lock-wait": self._settings.lock_wait_seconds,
        }
        if (start := inputs.start) is not None:
            options["--base-origin"] = start.origin
            files = {"--pretrained-g": start.generator, "--pretrained-d": start.discriminator}
            options |= {option: path for option, path in files.items() if path is not None}
        if self._settings.jobs_per_device > 1:
            options["--jobs-per-device"] = self._settings.jobs_per_device
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
        retry_until_available(lambda: self._lease.record_engine(pid, started_at), give_up=self._must_stop)
        logger.info("engine started", job_id=self._lease.job_id, attempt=self._lease.attempt, pid=pid)

    def _must_stop(self) -> bool:
        """Whether calls that are retried must end; asked between two tries, each of which is a turn of the loop."""
        self._heartbeat.turn()
        return self._is_draining() or self._heartbeat.is_lost

    def _disk_wait(self) -> Callable[[], bool]:
        """A function: whether `disk_wait_seconds` have passed since its first call, or there is a reason to stop."""
        deadline = Deadline(self._settings.disk_wait_seconds, lambda: True)

        def is_over() -> bool:
            self._heartbeat.turn()
            return deadline() or requested_stop(self._heartbeat, self._is_draining) is not None

        return is_over

    def _report_when_possible(self, engine_exit: EngineExit | Failure, log: JobLog) -> None:
        """Report as soon as server and disks allow. A worker that must stop leaves the lease to its successor."""
        deadline = Deadline(self._settings.disk_wait_seconds, lambda: True)

        def is_wait_over() -> bool:
            return self._heartbeat.command is WorkerCommand.CANCEL or deadline()

        give_up = Deadline(self._settings.stop_seconds, self._must_stop)
        retry_until_available(lambda: self._report(engine_exit, log, is_wait_over), give_up=give_up)

    def _report(self, engine_exit: EngineExit | Failure, log: JobLog, is_wait_over: Callable[[], bool]) -> None:
        """Record the last events and the outcome of the attempt. Raises transient errors, LeaseLost, RuntimeError."""
        self._reporter.flush(is_wait_over)
        outcome = decide_outcome(engine_exit, self._stop_reason, self._reporter, self._lease.max_duration_seconds)
        lease, status = self._lease, self._lease.finish(outcome)
        match outcome:
            case Success():
                logger.info("job succeeded", job_id=lease.job_id)
            case Released():
                log.line("info", f"the engine stopped: {outcome.why}")
                logger.info("job released", job_id=lease.job_id, reason=outcome.why, status=str(status))
            case Failure():
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
