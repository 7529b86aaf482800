"""One claimed job, from the start of its engine to what became of it.

end the old engine -> bring what it left -> start ours -> listen, record, obey -> say how it ended
"""

import json
import os
import socket
import time
from collections.abc import Callable

import structlog

from rvc_engine.child_processes import engine_environment, variable_names
from rvc_engine.errors import EngineError, FailureCode
from rvc_engine.events import CheckpointSaved, Event, Warned
from rvc_engine.workspace.atomic_files import write_atomically
from server.errors import LeaseLost
from server.job_store.leases import Lease, WorkerCommand
from server.jobs.service import JobService
from server.results.checkpoints import StoredCheckpoints
from server.storage.local import Storage, is_disk_full
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

logger = structlog.get_logger(__name__)

MAX_SLEEP_SECONDS = 0.2
"""At most so long the worker sleeps without looking whether it is to stop its engine."""
LAST_COPY_SECONDS = 120
"""For the last checkpoint on its way out of the workspace, before the job is released."""
_STOP_REASONS = {
    WorkerCommand.CANCEL: StopReason.CANCEL,
    WorkerCommand.PAUSE: StopReason.PAUSE,
    WorkerCommand.DRAIN: StopReason.DRAIN,
}


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
        self._settings = settings
        self._jobs = job_service
        self._storage = storage
        self._lease = lease
        self._heartbeat = heartbeat
        self._is_draining = is_draining
        self._workspaces = workspaces
        self._workspace = workspaces.workspace(lease)
        spool = workspaces.job_folder(lease.job_id) / f"events.{lease.token}.spool"
        self._reporter = EventReporter(job_service, storage, lease, self._workspace.root, spool)
        self._sync: CheckpointSync | None = None
        self._stop_reason: StopReason | None = None
        self._next_flush_at = 0.0

    def run(self) -> None:
        """Run the job and write down how it ended. A job that was taken away is dropped without a word."""
        with JobLog(self._storage.job_log(self._lease.job_id)) as log:
            log.line("info", f"attempt {self._lease.attempt} of the job {self._lease.job_id} on {socket.gethostname()}")
            try:
                self._terminate_stale_engine(log)
                engine_exit = self._prepare(log) or self._run_engine(log)
                self._finish(engine_exit, log)
            except LeaseLost:
                logger.warning("the job was taken away; nothing more is written", job_id=self._lease.job_id)
            finally:
                self._reporter.close()

    def _terminate_stale_engine(self, log: JobLog) -> None:
        """Whatever an earlier attempt left running on this machine must not write beside us."""
        old = retry_until_available(lambda: self._jobs.previous_engine(self._lease), give_up=self._is_draining)
        if old is None or old.host != socket.gethostname():
            return
        if terminate_stale_engine(old.pid, old.started_at, self._settings.stop_seconds):
            log.line("warning", f"the engine of an earlier attempt still ran (process {old.pid}); ended it")

    def _prepare(self, log: JobLog) -> Failure | None:
        """Bring the last checkpoint of an attempt that was made elsewhere; the failure where that cannot be."""
        try:
            restored = self._workspaces.prepare(self._lease, self._settings.lock_wait_seconds)
        except EngineError as error:
            return Failure(error.code, str(error))
        except OSError as error:
            code = FailureCode.DISK_FULL if is_disk_full(error) else FailureCode.INTERNAL
            return Failure(code, f"the job's last checkpoint cannot be brought into the workspace: {error}")
        if restored is not None:
            log.line("info", f"brought the checkpoint of step {restored.step} from the storage")
        return None

    def _run_engine(self, log: JobLog) -> EngineExit | Failure:
        try:
            engine = EngineProcess(self._command(), self._environment(), log, self._lease.step_seconds)
        except OSError as error:
            return Failure(FailureCode.INTERNAL, f"the engine cannot be started ({error}); mend the installation")
        stored = StoredCheckpoints(self._storage.checkpoints(self._lease.job_id))
        self._sync = sync = CheckpointSync(stored, self._workspace, self._lease.token)
        try:
            self._record_process(engine)
            return self._supervise(engine)
        finally:
            engine.close()
            if not sync.finish(LAST_COPY_SECONDS):
                logger.warning("the last checkpoint is still being copied", job_id=self._lease.job_id)

    def _command(self) -> list[str]:
        lease, storage = self._lease, self._storage
        config = storage.job_home(lease.job_id) / "config.json"
        write_atomically(config, json.dumps(lease.config.model_dump(mode="json"), indent=2).encode())
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
        # One word each, so that a value which begins with a dash is still a value.
        words = [f"{option}={value}" for option, value in options.items()]
        return [*self._settings.engine_command, *words, "--events"]

    def _environment(self) -> dict[str, str]:
        """What an engine may see of ours, with the worker's GPU alone and threads that sleep while they wait."""
        allowed = engine_environment(os.environ, variable_names(self._settings.engine_environment or ""))
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(self._settings.num_threads)}
        return allowed | threads | device_environment(self._settings.device, os.environ) | {"PYTHONUNBUFFERED": "1"}

    def _record_process(self, engine: EngineProcess) -> None:
        """Write down which process it is, before it can do harm; the engine's own lock guards what comes between."""
        pid, started_at = engine.pid, engine.started_at
        retry_until_available(
            lambda: self._jobs.record_engine_process(self._lease, pid, started_at), give_up=self._must_stop
        )
        logger.info("engine started", job_id=self._lease.job_id, attempt=self._lease.attempt, pid=pid)

    def _supervise(self, engine: EngineProcess) -> EngineExit:
        started = time.monotonic()
        stop_asked_at: float | None = None
        while (engine_exit := engine.poll()) is None:
            self._collect(engine.take_events(timeout=self._settings.record_seconds))
            self._flush()
            self._stop_reason = self._stop_reason or self._find_stop_reason(engine, started)
            if self._stop_reason is not None and stop_asked_at is None:
                logger.info("stopping the engine", job_id=self._lease.job_id, reason=str(self._stop_reason))
                engine.ask_to_stop()
                stop_asked_at = time.monotonic()
            if stop_asked_at is not None and self._has_stop_timed_out(engine, stop_asked_at):
                logger.warning("the engine did not stop; killing it", job_id=self._lease.job_id)
                engine.kill()
        self._collect(engine.take_events(timeout=0))
        return engine_exit

    def _collect(self, events: list[Event]) -> None:
        self._reporter.add(events)
        assert self._sync is not None  # noqa: S101 - made before the engine is listened to
        if any(isinstance(event, CheckpointSaved) for event in events):
            self._sync.schedule()
        if (error := self._sync.pop_error()) is not None:
            message = f"a checkpoint was not copied out of the workspace, so only this worker could go on: {error}"
            self._reporter.add([Warned(message=message, stage="train")])

    def _flush(self) -> None:
        """Write down what the engine said, every `record_seconds` at most: what came in between goes in one."""
        if self._heartbeat.is_lost:
            return
        if (early := self._next_flush_at - time.monotonic()) > 0:
            time.sleep(min(early, MAX_SLEEP_SECONDS))
            return
        self._next_flush_at = time.monotonic() + self._settings.record_seconds
        try:
            self._reporter.flush()
        except LeaseLost:
            self._stop_reason = StopReason.LOST

    def _find_stop_reason(self, engine: EngineProcess, started: float) -> StopReason | None:
        limit = self._lease.max_duration_seconds
        if self._heartbeat.is_lost:
            return StopReason.LOST
        if (command := self._heartbeat.command) is not WorkerCommand.NONE:
            return _STOP_REASONS[command]
        if self._is_draining():
            return StopReason.DRAIN
        if limit is not None and time.monotonic() - started > limit:
            return StopReason.TOO_LONG
        if engine.silent_seconds > engine.allowed_silence(self._settings.silence_seconds, steps=20):
            return StopReason.SILENT
        return None

    def _has_stop_timed_out(self, engine: EngineProcess, asked_at: float) -> bool:
        """Whether it had time for three steps and three saves, and at least `stop_seconds`, without an event."""
        silence = min(engine.silent_seconds, time.monotonic() - asked_at)
        return silence > engine.allowed_silence(self._settings.stop_seconds)

    def _must_stop(self) -> bool:
        return self._is_draining() or self._heartbeat.is_lost

    def _finish(self, engine_exit: EngineExit | Failure, log: JobLog) -> None:
        """Flush the last events and report the outcome, however long that takes; a draining worker gives up."""
        if self._stop_reason is StopReason.LOST:
            return
        give_up = Deadline(self._settings.stop_seconds, self._must_stop)
        while not self._reporter.flush():
            if give_up():
                return
            time.sleep(1)
        retry_until_available(lambda: self._report_outcome(engine_exit, log), pause_seconds=1, give_up=give_up)

    def _report_outcome(self, engine_exit: EngineExit | Failure, log: JobLog) -> None:
        """Report the outcome of the attempt, in one call."""
        outcome = decide_outcome(engine_exit, self._stop_reason, self._reporter, self._lease.max_duration_seconds)
        job_service, lease = self._jobs, self._lease
        match outcome:
            case Success():
                job_service.succeed(lease)
                logger.info("job succeeded", job_id=lease.job_id)
            case Released():
                status = job_service.release(lease, outcome.why)
                log.line("info", f"the engine stopped: {outcome.why}")
                logger.info("job handed back", job_id=lease.job_id, reason=outcome.why, status=str(status))
            case Failure():
                status = job_service.fail(lease, outcome.code, outcome.message)
                log.line("error", f"attempt failed ({outcome.code}): {outcome.message}")
                logger.warning("attempt failed", job_id=lease.job_id, code=str(outcome.code), status=str(status))


class Deadline:
    """Whether to give up: never while there is no hurry, and a while after there is."""

    def __init__(self, seconds: float, is_hurried: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._is_hurried = is_hurried
        self._since: float | None = None

    def __call__(self) -> bool:
        if not self._is_hurried():
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > self._seconds
