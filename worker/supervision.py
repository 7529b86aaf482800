"""Supervision of a running engine: record its events, copy its checkpoints, stop it when there is a reason."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from rvc_engine.events import CheckpointSaved, Metric, Warned
from rvc_train.schemas.workers import WorkerCommand
from worker.conversions.placement import TrainingState
from worker.engine.checkpoint_sync import CheckpointSync
from worker.engine.outcome import StopReason
from worker.engine.process import EngineExit, EngineProcess
from worker.gateway.errors import LeaseLost
from worker.gateway.interface import JobLease
from worker.reporting.event_reporter import EventReporter
from worker.reporting.heartbeat import Heartbeat
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

TICK_SECONDS = 0.2
"""Longest wait for an event; reasons to stop the engine are checked at least so often."""
_STOP_REASONS = {
    WorkerCommand.CANCEL: StopReason.CANCEL,
    WorkerCommand.PAUSE: StopReason.PAUSE,
    WorkerCommand.DRAIN: StopReason.DRAIN,
}


def requested_stop(heartbeat: Heartbeat, is_draining: Callable[[], bool]) -> StopReason | None:
    """Reason from outside to stop an attempt; None without one."""
    if heartbeat.is_lost:
        return StopReason.LOST
    if heartbeat.command is not WorkerCommand.NONE:
        return _STOP_REASONS[heartbeat.command]
    return StopReason.DRAIN if is_draining() else None


@dataclass
class Supervisor:
    """Supervisor of one engine, from its start to its exit."""

    settings: WorkerSettings
    lease: JobLease
    engine: EngineProcess
    reporter: EventReporter
    checkpoint_sync: CheckpointSync
    heartbeat: Heartbeat
    is_draining: Callable[[], bool]
    training: TrainingState
    stop_reason: StopReason | None = None
    """Reason why the engine was asked to stop; None while it was not."""
    _stop_requested_at: float | None = None
    _started_at: float = field(default_factory=time.monotonic)

    def run(self) -> EngineExit:
        """Supervise the engine until its exit."""
        next_flush_at = 0.0
        while (engine_exit := self.engine.poll()) is None:
            self.heartbeat.turn()
            self._collect_events(TICK_SECONDS)
            if time.monotonic() >= next_flush_at:
                next_flush_at = time.monotonic() + self.settings.record_seconds
                self._flush_events()
            if self.stop_reason is None:
                self.stop_reason = self._find_stop_reason()
            if self.stop_reason is not None:
                self._stop_engine(self.stop_reason)
        self._collect_events(timeout=0)
        return engine_exit

    def _collect_events(self, timeout: float) -> None:
        events = self.engine.take_events(timeout)
        self.reporter.add(events)
        if any(isinstance(event, Metric) for event in events):
            self.training.has_stepped = True
        if any(isinstance(event, CheckpointSaved) for event in events):
            self.checkpoint_sync.schedule()
        if (error := self.checkpoint_sync.pop_error()) is not None:
            message = f"a checkpoint was not copied out of the workspace, so only this worker can continue: {error}"
            self.reporter.add([Warned(message=message, stage="train")])

    def _flush_events(self) -> None:
        """Record the collected events, in one batch every `record_seconds`."""
        if self.heartbeat.is_lost:
            return
        try:
            self.reporter.try_flush()
        except LeaseLost:
            self.stop_reason = StopReason.LOST

    def _find_stop_reason(self) -> StopReason | None:
        limit = self.lease.max_duration_seconds
        if (requested := requested_stop(self.heartbeat, self.is_draining)) is not None:
            return requested
        if limit is not None and time.monotonic() - self._started_at > limit:
            return StopReason.TOO_LONG
        watchdog = self.engine.watchdog
        if watchdog.silent_seconds > watchdog.allowed_silence(self.settings.silence_seconds, steps=20):
            return StopReason.SILENT
        return None

    def _stop_engine(self, reason: StopReason) -> None:
        """Ask the engine to stop; kill it after `stop_seconds`, and three steps and saves, without an event."""
        if self._stop_requested_at is None:
            logger.info("stopping the engine", job_id=self.lease.job_id, reason=str(reason))
            self.engine.ask_to_stop()
            self._stop_requested_at = time.monotonic()
        silence = min(self.engine.watchdog.silent_seconds, time.monotonic() - self._stop_requested_at)
        if silence > self.engine.watchdog.allowed_silence(self.settings.stop_seconds, steps=3):
            logger.warning("the engine did not stop; killing it", job_id=self.lease.job_id)
            self.engine.kill()
