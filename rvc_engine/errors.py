"""Errors of a run, as one tree.

    EngineError
    ├── InvalidDataset          invalid_dataset          nothing usable in the recordings
    ├── InvalidConfig           invalid_config           an option, or a combination of options, that cannot work
    ├── MissingWeights          missing_weights          published weights are not on this machine
    ├── IncompatibleCheckpoint  incompatible_checkpoint  weights or a checkpoint of another kind than the run
    ├── GpuOutOfMemory          gpu_out_of_memory        the smallest micro-batch does not fit
    ├── Diverged                diverged                 losses stayed NaN or infinite
    ├── DiskFull                disk_full                no room for a file the run must write
    ├── RankFailure             engine_crashed           a data-parallel process died without an error
    ├── GraphsFailed            engine_crashed           CUDA graphs failed; the engine starts again without them
    ├── WorkspaceBusy           workspace_busy           another engine holds the workspace's lock
    └── ArtifactInvalid         artifact_invalid         an export that failed its check

EngineError itself is a bug of ours (code `internal`). Each message states what happened and what to do.
`code` is stable: it appears in events, the database and HTTP responses.
`retryable` is fixed per code: whether the same run may succeed when retried.

`FailureCode` also has the codes that only the worker and the server report, so that there is one list. This module
imports no torch.
"""

from enum import StrEnum
from typing import ClassVar


class FailureCode(StrEnum):
    """Reason why a run or a job failed."""

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
    """The engine process ended without reporting an error (a signal, an out-of-memory kill)."""
    WORKER_LOST = "worker_lost"
    """The worker stopped sending heartbeats."""
    MAX_DURATION_EXCEEDED = "max_duration_exceeded"
    NO_PROGRESS = "no_progress"
    """The engine was alive but sent no event for too long."""
    QUEUE_TIMEOUT = "queue_timeout"

    @property
    def retryable(self) -> bool:
        """Whether the same job may succeed when retried."""
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
    """Error that ends a run; the message is for the user."""

    code: ClassVar[FailureCode] = FailureCode.INTERNAL


class InvalidDataset(EngineError):
    """No usable recordings; the message names the files and the reasons."""

    code = FailureCode.INVALID_DATASET


class InvalidConfig(EngineError):
    """An option, or a combination of options, that cannot work."""

    code = FailureCode.INVALID_CONFIG


class MissingWeights(EngineError):
    """Published weights are not on this machine; the message names the ways to get them."""

    code = FailureCode.MISSING_WEIGHTS


class IncompatibleCheckpoint(EngineError):
    """Weights or a checkpoint of another version, rate or size than the run's."""

    code = FailureCode.INCOMPATIBLE_CHECKPOINT


class GpuOutOfMemory(EngineError):
    """The device has too little memory for the run."""

    code = FailureCode.GPU_OUT_OF_MEMORY


class Diverged(EngineError):
    """Losses stayed NaN or infinite after rollbacks to a good checkpoint."""

    code = FailureCode.DIVERGED


class DiskFull(EngineError):
    """No disk space for a file that the run must write."""

    code = FailureCode.DISK_FULL


class RankFailure(EngineError):
    """A data-parallel training process died without reporting an error."""

    code = FailureCode.ENGINE_CRASHED


class GraphsFailed(EngineError):
    """Capture of a CUDA graph that failed, after which no step can be taken in the same process."""

    code = FailureCode.ENGINE_CRASHED


class WorkspaceBusy(EngineError):
    """Another engine process holds the workspace's lock."""

    code = FailureCode.WORKSPACE_BUSY


class ArtifactInvalid(EngineError):
    """Export that failed its check and was not published."""

    code = FailureCode.ARTIFACT_INVALID


def error_from_code(code: FailureCode, message: str) -> EngineError:
    """The error that a child process reported by its code."""
    return next((kind for kind in EngineError.__subclasses__() if kind.code is code), EngineError)(message)


class StopRequested(BaseException):
    """Request to stop the run (SIGTERM, or closed standard input). Not an error: nothing is lost.

    Raised between two pieces of work. Derives from BaseException so that no `except Exception` swallows it.
    """
