"""Interface of all that a worker asks of the server. Each method is what one HTTP request can answer.

    WorkerGateway -- register --> RegisteredWorker -- claim ------------> JobLease
                                                   -- claim_conversion -> ConversionLease

Every method may raise `Unavailable`, besides the errors that it names: the call may have been carried out all the same.
All may then be repeated: `claim` with `is_repeated`, `record` with the same number; an outcome that had been taken
raises LeaseLost at the second try. What is written under a lease raises LeaseLost, and changes nothing, once that was
replaced, or its job has ended or was deleted. Two kinds of writes may be taken from a stale worker: lines of the log,
which are appended, and checkpoints, which are good ones of the same run. Methods may be called from several threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rvc_engine.calibration.results import Calibration
from rvc_engine.config import TrainingConfig
from rvc_engine.conversion.voice_files import VoiceFiles
from rvc_engine.events import Event
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionOptions, ConversionStatus
from rvc_train.schemas.workers import GpuPublic
from worker.gateway.types import (
    Beat,
    ConversionResult,
    Folders,
    JobInputs,
    Outcome,
    PreviousEngine,
    Recording,
    StoredCheckpoint,
    WorkerDescription,
)


class LogSink(Protocol):
    """Open log of a job: complete lines are appended in their order."""

    def write(self, text: str, /) -> object:
        """Append lines. Raises OSError when they are not stored, as on a full disk."""

    def close(self) -> None:
        """Close it; lines are stored before."""


@dataclass(kw_only=True, eq=False)
class JobLease(ABC):
    """A worker's right to one job, until the token is replaced."""

    job_id: str
    token: int
    attempt: int
    """1 for the first."""
    voice: str
    """The voice's name."""
    config: TrainingConfig
    max_duration_seconds: float | None
    step_seconds: float | None
    """Time of a training step in earlier attempts; None when it was not measured."""
    previous_engine: PreviousEngine | None
    attempt_folder: Path
    """Folder on this machine for files of this attempt alone; it exists, and goes when the job is deleted."""
    on_progress: Callable[[], object] = lambda: None
    """Called again and again while files of `inputs`, `restore_checkpoint` and `record` are on their way."""

    @abstractmethod
    def renew(self) -> None:
        """Renew the lease, outside of the worker's heartbeats: before files of an earlier attempt are replaced."""

    @abstractmethod
    def open_log(self) -> LogSink:
        """Open the job's log, which all attempts share; lines of a stale worker are appended too. OSError."""

    @abstractmethod
    def inputs(self) -> JobInputs:
        """Bring recordings, files to start from and the dataset's stage results to this machine. OSError."""

    @abstractmethod
    def newest_checkpoint(self) -> StoredCheckpoint | None:
        """The newest checkpoint that the server has. Raises IncompatibleCheckpoint for a damaged manifest, OSError."""

    @abstractmethod
    def restore_checkpoint(self, workspace: Workspace) -> None:
        """Bring stored checkpoints, with the best save and the evaluations, into an empty workspace; damaged ones not.

        Raises IncompatibleCheckpoint when all are damaged, OSError.
        """

    @abstractmethod
    def store_checkpoint(self, workspace: Workspace) -> None:
        """Store the workspace's newest checkpoint, unless that was done, it is superseded, or the job was deleted.

        Raises IncompatibleCheckpoint for one that does not match its manifest, OSError.
        """

    @abstractmethod
    def record_engine(self, pid: int, started_at: float) -> None:
        """Record the attempt's engine process; the next attempt ends it if it outlives its worker."""

    @abstractmethod
    def record(self, events: Sequence[Event], write: int) -> None:
        """Record a batch of the engine's events; one that names files stands alone, and its files are stored with it.

        `write`: number of the batch, from 1 under each lease; one that was recorded changes nothing. Raises
        ArtifactInvalid for a file of another size or sha256 than announced, OSError for one that cannot be stored.
        """

    @abstractmethod
    def finish(self, outcome: Outcome) -> JobStatus:
        """End the attempt; returns the job's new status."""

    @abstractmethod
    def clear_if_deleted(self) -> None:
        """After the loss of the lease: remove what was written since for a job that was deleted."""


@dataclass(kw_only=True, eq=False)
class ConversionLease(ABC):
    """A worker's right to one conversion, until the token is replaced."""

    conversion_id: str
    token: int
    voice: str
    """The voice's name."""
    job_id: str
    save: str | None
    """`best`, `latest` or the number of a save; None: the finished voice."""
    job_config: Mapping[str, Any]
    """Training config of the job."""
    files: VoiceFiles
    """The voice's files on this machine; missing where they are with another worker, or deleted."""
    recordings: Sequence[Recording]
    options: ConversionOptions
    max_seconds: float
    """Longest recording that is converted."""
    folder: Path
    """Folder on this machine for the results; it exists, and goes when the conversion is deleted."""

    @abstractmethod
    def beat(self, progress: float) -> bool:
        """Renew the lease, with the share that is done; True when the conversion was cancelled or deleted."""

    @abstractmethod
    def finish(self, results: Sequence[ConversionResult], device: str, device_reason: str) -> ConversionStatus:
        """Store the results, one for each recording in their order, and end; returns the new status."""

    @abstractmethod
    def fail(self, code: ConversionFailure, message: str) -> None:
        """End the conversion as failed; `message` is for its owner."""

    @abstractmethod
    def release(self) -> None:
        """Give the conversion back, for another worker; nothing is counted."""


class RegisteredWorker(ABC):
    """One worker as the server has it registered."""

    worker_id: str

    @abstractmethod
    def heartbeat(self, lease: JobLease | None) -> Beat:
        """Renew the worker's registration and its lease on a job, if it has one; what to do is in the answer."""

    @abstractmethod
    def claim(self, *, is_repeated: bool, job_id: str | None) -> JobLease | None:
        """Claim the next job that this worker can run, or only the one of an id; None when none is due.

        It may wait some seconds for one. `is_repeated`: the last claim was Unavailable; the job that it may have
        claimed is returned. Raises SchemaChanged; OSError, without a claim, when the attempt's folder cannot be made.
        """

    @abstractmethod
    def why_never_claimed(self, job_id: str) -> str | None:
        """Reason why this worker cannot claim a job, now or later; None where it may."""

    @abstractmethod
    def claim_conversion(self, *, may_wait: bool = False) -> ConversionLease | None:
        """Claim the next conversion, and bring its files to this machine; None when none waits.

        `may_wait`: whether it may wait some seconds for one.
        Raises SchemaChanged; OSError, without a claim, when its folder cannot be made.
        """

    @abstractmethod
    def report_gpus(self, gpus: Sequence[GpuPublic]) -> None:
        """Replace the reading of the worker's GPUs. OSError."""

    def stop_waiting(self) -> None:  # noqa: B027 - not every form waits
        """End claims that wait, now and later: the worker stops."""

    @abstractmethod
    def deregister(self) -> None:
        """Record the clean end of the worker; its reading of GPUs goes."""


class WorkerGateway(ABC):
    """A server as workers see it."""

    folders: Folders

    @abstractmethod
    def open(self) -> str | None:
        """The id of the server's installation, once it can serve workers; None while its first start is awaited.

        Raises SettingsRefused for a server that this worker cannot work for.
        """

    @abstractmethod
    def register(self, worker: WorkerDescription) -> RegisteredWorker:
        """Register a worker. Raises SettingsRefused when the lease is too short for its heartbeats."""

    @abstractmethod
    def requeue_worker(self, worker_id: str) -> Sequence[str]:
        """Hand back the work of a worker whose process has ended; returns the ids of its jobs and conversions."""

    @abstractmethod
    def statuses(self, job_ids: Collection[str]) -> Mapping[str, JobStatus]:
        """Statuses of those jobs that the server has; Unavailable where its data is another installation's by now."""

    @abstractmethod
    def lacks_calibration(self, device_name: str, version: str, torch: str | None, num_threads: int) -> bool:
        """Whether a device has no calibration with these versions of this program and of PyTorch (None: any)."""

    @abstractmethod
    def store_calibration(self, device_name: str, calibration: Calibration) -> None:
        """Replace a device's calibration. OSError."""

    @abstractmethod
    def close(self) -> None:
        """End what runs beside the calls."""
