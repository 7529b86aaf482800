"""Outcome of an attempt, a pure function of the engine's exit and the reason to stop it."""

from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Protocol

from rvc_engine.environment.processes import describe_exit
from rvc_engine.errors import EngineError, FailureCode
from rvc_engine.events import EXIT_SUCCEEDED, EXIT_USAGE, Failed, Stopped, Succeeded
from worker.engine.process import EngineExit
from worker.gateway.types import Failure, Released, Success

NEEDED_KINDS = frozenset({"voice", "index"})
"""Artifacts that every successful job has."""


class StopReason(StrEnum):
    """Why the worker asked an engine to stop."""

    CANCEL = "cancelled"
    PAUSE = "paused"
    DRAIN = "the worker is stopping"
    LOST = "the job was taken away from this worker"
    TOO_LONG = "the attempt took longer than max_duration_seconds"
    SILENT = "the engine was silent for too long"


_REQUESTED_STOPS = frozenset({StopReason.CANCEL, StopReason.PAUSE, StopReason.DRAIN})


class Published(Protocol):
    """State of the attempt's artifacts."""

    @property
    def published(self) -> AbstractSet[str]:
        """Kinds of the published artifacts."""

    @property
    def rejected(self) -> EngineError | None:
        """Error of an artifact that was not published; None without one."""


def decide_outcome(
    engine_exit: EngineExit | Failure,
    stop_reason: StopReason | None,
    artifacts: Published,
    max_duration_seconds: float | None,
) -> Success | Released | Failure:
    """Decide the outcome, by precedence: a published voice, a requested stop, the engine's own end.

    `engine_exit` is a Failure when no engine could be started.
    """
    if isinstance(engine_exit, EngineExit) and isinstance(engine_exit.last_event, Succeeded):
        return _why_not_succeeded(engine_exit, artifacts) or Success()
    if stop_reason in _REQUESTED_STOPS:
        return Released(str(stop_reason))
    if isinstance(engine_exit, Failure):
        return engine_exit
    if stop_reason is StopReason.TOO_LONG:
        message = f"the attempt took longer than max_duration_seconds={max_duration_seconds}; raise it or train less"
        return Failure(FailureCode.MAX_DURATION_EXCEEDED, message)
    if stop_reason is StopReason.SILENT:
        message = "the engine sent no event for so long that it was considered hung and stopped"
        return Failure(FailureCode.NO_PROGRESS, message)
    return _why_failed(engine_exit)


def _why_not_succeeded(engine_exit: EngineExit, artifacts: Published) -> Failure | None:
    """Check a reported success against the exit code and the published files; None when it holds."""
    if artifacts.rejected is not None:
        return Failure(artifacts.rejected.code, str(artifacts.rejected))
    missing = sorted(NEEDED_KINDS - artifacts.published)
    if missing:
        message = f"the engine reported success, but published no {' and no '.join(missing)}; see the log"
        return Failure(FailureCode.ARTIFACT_INVALID, message)
    if engine_exit.exit_code != EXIT_SUCCEEDED:
        return Failure(
            FailureCode.ENGINE_CRASHED, f"the engine {describe_exit(engine_exit.exit_code)} after its last event"
        )
    return None


def _why_failed(engine_exit: EngineExit) -> Failure:
    """Failure that the engine reported, or one made from its exit code and its last lines of output."""
    if isinstance(engine_exit.last_event, Failed):
        return Failure(engine_exit.last_event.code, engine_exit.last_event.message)
    if isinstance(engine_exit.last_event, Stopped):
        message = "the engine was stopped from outside; a new attempt continues from its checkpoint"
        return Failure(FailureCode.ENGINE_CRASHED, message)
    output = "\n".join(engine_exit.last_lines) or "(none)"
    if engine_exit.exit_code == EXIT_USAGE:
        message = f"the engine rejected its options, which is a bug in rvc-train. Its last output:\n{output}"
        return Failure(FailureCode.INTERNAL, message)
    message = f"the engine {describe_exit(engine_exit.exit_code)} without an error message. Its last output:\n{output}"
    return Failure(FailureCode.ENGINE_CRASHED, message)
