"""The outcome of an attempt, decided from the engine's exit and the reason to stop it. Pure."""

import signal
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rvc_engine.errors import EngineError, FailureCode
from rvc_engine.events import EXIT_SUCCEEDED, EXIT_USAGE, Failed, Stopped, Succeeded
from worker.engine.process import EngineExit

NEEDED_KINDS = frozenset({"voice", "index"})
"""Artifacts without which no job has succeeded."""


class StopReason(StrEnum):
    """Why the worker asked an engine to stop."""

    CANCEL = "cancelled"
    PAUSE = "paused"
    DRAIN = "the worker is stopping"
    LOST = "the job was taken away from this worker"
    TOO_LONG = "the attempt took longer than max_duration_seconds"
    SILENT = "the engine was silent for too long"


_REQUESTED_STOPS = frozenset({StopReason.CANCEL, StopReason.PAUSE, StopReason.DRAIN})


@dataclass(frozen=True)
class Success:
    """The voice is made and published."""


@dataclass(frozen=True)
class Released:
    """The engine stopped because it was asked to; nothing failed."""

    why: str


@dataclass(frozen=True)
class Failure:
    """The attempt failed: a code and a sentence."""

    code: FailureCode
    message: str


class Published(Protocol):
    """What is known of the artifacts."""

    @property
    def published(self) -> AbstractSet[str]:
        """Kinds that are published."""

    @property
    def rejected(self) -> EngineError | None:
        """Why one was not."""


def decide_outcome(
    engine_exit: EngineExit | Failure,
    stop_reason: StopReason | None,
    artifacts: Published,
    max_duration_seconds: float | None,
) -> Success | Released | Failure:
    """Decide the outcome: a published voice wins over every reason to stop; then the stop reason, then the engine's.

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
        message = "the engine said nothing for so long that it counts as hung; it was stopped"
        return Failure(FailureCode.NO_PROGRESS, message)
    return _why_failed(engine_exit)


def _why_not_succeeded(engine_exit: EngineExit, artifacts: Published) -> Failure | None:
    """What the engine's word is worth: its exit code and the published files decide."""
    if artifacts.rejected is not None:
        return Failure(artifacts.rejected.code, str(artifacts.rejected))
    missing = sorted(NEEDED_KINDS - artifacts.published)
    if missing:
        message = f"the engine said that it succeeded, but offered no {' and no '.join(missing)}; see the log"
        return Failure(FailureCode.ARTIFACT_INVALID, message)
    if engine_exit.exit_code != EXIT_SUCCEEDED:
        return Failure(
            FailureCode.ENGINE_CRASHED, f"the engine {_describe_exit(engine_exit.exit_code)} after its last word"
        )
    return None


def _why_failed(engine_exit: EngineExit) -> Failure:
    """What the engine said, or what can be told when it died without a word."""
    if isinstance(engine_exit.last_event, Failed):
        return Failure(engine_exit.last_event.code, engine_exit.last_event.message)
    if isinstance(engine_exit.last_event, Stopped):
        message = "somebody outside stopped the engine; run again, the job goes on from its checkpoint"
        return Failure(FailureCode.ENGINE_CRASHED, message)
    words = "\n".join(engine_exit.last_lines) or "nothing"
    if engine_exit.exit_code == EXIT_USAGE:
        message = f"the engine did not understand its options, a mistake of ours. It said:\n{words}"
        return Failure(FailureCode.INTERNAL, message)
    message = f"the engine {_describe_exit(engine_exit.exit_code)} without saying why. Its last words:\n{words}"
    return Failure(FailureCode.ENGINE_CRASHED, message)


def _describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    hint = " (often the system's out-of-memory killer)" if -exit_code == signal.SIGKILL else ""
    return f"was ended by the signal {name}{hint}"
