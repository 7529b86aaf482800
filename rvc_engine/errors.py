"""Everything that can go wrong in a run, as one tree.

    EngineError
    ├── InvalidDataset          invalid_dataset          nothing usable in the recordings
    ├── InvalidConfig           invalid_config           an option, or a combination of options, that cannot work
    ├── MissingWeights          missing_weights          a net's published weights are not on this machine
    ├── IncompatibleCheckpoint  incompatible_checkpoint  weights or a checkpoint of another kind than the run
    ├── GpuOutOfMemory          gpu_out_of_memory        the smallest micro-batch does not fit
    ├── Diverged                diverged                 losses became NaN or infinite and stayed so
    ├── DiskFull                disk_full                no room for a file the run must write
    ├── RankFailure             engine_crashed           one of several training processes died without a reason
    ├── WorkspaceBusy           workspace_busy           another engine holds the workspace's lock
    └── ArtifactInvalid         artifact_invalid         an export that did not pass its own check

EngineError itself is a mistake of ours (code `internal`). Each message says what happened and what to do.
`code` is stable: it goes into events, the database and HTTP answers.
`retryable` is fixed per code: whether the same run, tried again, may well succeed.

Codes that no engine can report about itself (the worker and the server give them) stand in `FailureCode` too, so that
there is one list. This module imports no torch.
"""

from enum import StrEnum
from typing import ClassVar


class FailureCode(StrEnum):
    """Why a run, or a job, failed."""

    INVALID_DATASET = "invalid_dataset"
    INVALID_CONFIG = "invalid_config"
    MISSING_WEIGHTS = "missing_weights"
    INCOMPATIBLE_CHECKPOINT = "incompatible_checkpoint"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    DIVERGED = "diverged"
    DISK_FULL = "disk_full"
    WORKSPACE_BUSY = "workspace_busy"
    ARTIFACT_INVALID = "artifact_invalid"
    INTERNAL = "internal"
    ENGINE_CRASHED = "engine_crashed"
    """The engine process ended without saying why (a signal, an out-of-memory kill)."""
    WORKER_LOST = "worker_lost"
    """The worker stopped sending heartbeats."""
    MAX_DURATION_EXCEEDED = "max_duration_exceeded"
    NO_PROGRESS = "no_progress"
    """The engine was alive and silent for too long."""
    QUEUE_TIMEOUT = "queue_timeout"

    @property
    def retryable(self) -> bool:
        """Whether the same job, tried again, may well succeed."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        FailureCode.GPU_OUT_OF_MEMORY,
        FailureCode.WORKSPACE_BUSY,
        FailureCode.ENGINE_CRASHED,
        FailureCode.WORKER_LOST,
        FailureCode.NO_PROGRESS,
    }
)


class EngineError(Exception):
    """A run cannot go on; the message is for the person who started it."""

    code: ClassVar[FailureCode] = FailureCode.INTERNAL


class InvalidDataset(EngineError):
    """Nothing usable in the recordings; the message names the files and the reasons."""

    code = FailureCode.INVALID_DATASET


class InvalidConfig(EngineError):
    """An option, or a combination of options, that cannot work."""

    code = FailureCode.INVALID_CONFIG


class MissingWeights(EngineError):
    """A net's published weights are not on this machine; the message names the ways to get them."""

    code = FailureCode.MISSING_WEIGHTS


class IncompatibleCheckpoint(EngineError):
    """Weights or a checkpoint that belong to another version, rate or size than the run asks for."""

    code = FailureCode.INCOMPATIBLE_CHECKPOINT


class GpuOutOfMemory(EngineError):
    """The device has too little memory for the run."""

    code = FailureCode.GPU_OUT_OF_MEMORY


class Diverged(EngineError):
    """Losses became NaN or infinite and stayed so after going back to a good checkpoint."""

    code = FailureCode.DIVERGED


class DiskFull(EngineError):
    """There is no room for a file that the run must write."""

    code = FailureCode.DISK_FULL


class RankFailure(EngineError):
    """One of several processes that train together died without saying why."""

    code = FailureCode.ENGINE_CRASHED


class WorkspaceBusy(EngineError):
    """Another engine process holds the workspace's lock."""

    code = FailureCode.WORKSPACE_BUSY


class ArtifactInvalid(EngineError):
    """An export did not pass its own check and was not published."""

    code = FailureCode.ARTIFACT_INVALID


def error_from_code(code: FailureCode, message: str) -> EngineError:
    """The error that a child process reported by its code."""
    return next((kind for kind in EngineError.__subclasses__() if kind.code is code), EngineError)(message)


class StopRequested(BaseException):
    """Someone asked the run to stop (SIGTERM, or standard input closed). Not an error: nothing is lost.

    Raised between two pieces of work. It derives from BaseException so that no `except Exception` swallows it.
    """
