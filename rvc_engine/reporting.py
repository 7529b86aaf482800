"""Progress, warnings and log lines of a stage, and the check for a stop request. No torch."""

import time
from collections.abc import Callable

from rvc_engine.errors import StopRequested
from rvc_engine.events import Event, Level, Log, Progress, Stage, Warned

Report = Callable[[Event], None]
"""Callback for each event as it happens. Must be quick and must not raise."""

SECONDS_BETWEEN_PROGRESS = 0.5


class StageReport:
    """Reporter of a stage: sends its events, and raises StopRequested between two pieces of work."""

    def __init__(
        self,
        stage: Stage,
        report: Report,
        is_stopping: Callable[[], bool] = lambda: False,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """`span`: the stage's part of the run's progress, as (start, end) in 0..1."""
        self.stage: Stage = stage
        self._report = report
        self._is_stopping = is_stopping
        self._span = span
        self._last_progress = 0.0
        self._furthest = 0.0
        self._started = time.monotonic()

    def event(self, event: Event) -> None:
        """Send any event."""
        self._report(event)

    def log(self, message: str, level: Level = "info") -> None:
        """Send a log line."""
        self._report(Log(message=message, level=level))

    def warn(self, message: str) -> None:
        """Send a warning to the user; the run continues."""
        self._report(Warned(message=message, stage=self.stage))

    def relay(self, event: Event) -> None:
        """Send an event of another process whose progress is that of this stage."""
        if isinstance(event, Progress):
            start, end = self._span
            event = event.model_copy(update={"progress": start + (end - start) * event.stage_progress})
        self._report(event)

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._is_stopping()

    def check_stop(self) -> None:
        """Raise StopRequested if a stop was requested. Call between two pieces of work."""
        if self._is_stopping():
            raise StopRequested

    def progress(self, done: float, total: float, **training: float | int | None) -> None:
        """Report that `done` of `total` pieces of the stage are finished, after `check_stop`.

        Sent at most twice a second, and always at the end. `training`: further fields of `Progress`.
        """
        self.check_stop()
        now = time.monotonic()
        is_last = done >= total
        if not is_last and now - self._last_progress < SECONDS_BETWEEN_PROGRESS:
            return
        self._last_progress = now
        fraction = min(max(done / total, self._furthest), 1.0) if total > 0 else 1.0
        self._furthest = fraction  # training may roll back to a checkpoint; reported progress never falls
        start, end = self._span
        fields: dict[str, object] = {
            "stage": self.stage,
            "stage_progress": fraction,
            "progress": start + (end - start) * fraction,
            **training,
        }
        self._report(Progress.model_validate(fields))
