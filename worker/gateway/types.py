"""Values that cross the gateway. Paths are of this machine; an HTTP gateway brings their files here first."""

from dataclasses import dataclass, field
from pathlib import Path

from rvc_engine.checkpoints.manifest import CheckpointEntry
from rvc_engine.errors import FailureCode
from rvc_train.schemas.workers import Drain, WorkerCommand


@dataclass(frozen=True)
class Folders:
    """Folders on this machine that all of its workers share."""

    root: Path
    jobs: Path
    """Folders of jobs, each named by its id, with workspaces of workers that have no scratch folder."""
    weights: Path
    """Published weights."""


@dataclass(frozen=True)
class WorkerDescription:
    """A worker as it registers."""

    name: str
    pid: int
    host: str
    device: str
    device_name: str
    """Model of the device, for users and estimates."""
    version: str
    heartbeat_seconds: float
    serves_conversions: bool
    num_gpus: int
    gpu_memory_bytes: int | None
    """Memory of the smallest GPU; None where it is unknown."""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Beat:
    """Answer to a heartbeat."""

    drain: Drain | None
    """Mode in which the worker is drained; `finish` too for a worker that the server has forgotten."""
    command: WorkerCommand = WorkerCommand.NONE
    """Command for the job of the lease."""
    lost: str | None = None
    """Why the lease is lost; None while it is valid, and without one."""


@dataclass(frozen=True)
class PreviousEngine:
    """Engine process of an earlier attempt at a job; if still running, it is ended before a new one starts."""

    pid: int
    started_at: float
    """`psutil.Process.create_time`, in seconds since the epoch."""
    host: str


@dataclass(frozen=True)
class StartFiles:
    """Files that a training starts from in place of published base weights: one of the two, or both."""

    generator: Path | None
    discriminator: Path | None
    origin: str
    """Description of the files, for the voice's record."""


@dataclass(frozen=True)
class JobInputs:
    """Files of a job that its engine reads."""

    recordings: Path
    """Folder with the manifest of the recordings."""
    cache: Path
    """Folder of the dataset's stage results, to which the engine adds."""
    config: Path
    """The training config, JSON."""
    provenance: Path
    """Origin of the recordings, for the voice's card, JSON."""
    start: StartFiles | None


@dataclass(frozen=True)
class StoredCheckpoint:
    """The newest checkpoint of a job that the server has."""

    token: int
    """Token of the attempt that stored it."""
    entry: CheckpointEntry


@dataclass(frozen=True)
class Success:
    """The voice is published."""


@dataclass(frozen=True)
class Released:
    """The engine stopped on request; nothing failed."""

    why: str


@dataclass(frozen=True)
class Failure:
    """The attempt failed, with a code and a sentence."""

    code: FailureCode
    message: str


@dataclass(frozen=True)
class WorkerFault:
    """The worker failed, not the attempt: another one may succeed. Code and sentence as of the job's failure."""

    code: FailureCode
    message: str


Outcome = Success | Released | Failure | WorkerFault


@dataclass(frozen=True)
class LocalFile:
    """A complete file on this machine's disk."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Recording:
    """A recording to convert."""

    output: str
    """Name of its result."""
    path: Path


@dataclass(frozen=True)
class ConversionResult:
    """Result of one recording: a file in the lease's `folder`, or an error."""

    name: str
    """`Recording.output`."""
    file: LocalFile | None = None
    seconds: float | None = None
    pitch_shift: float | None = None
    """Semitones."""
    error: str | None = None
