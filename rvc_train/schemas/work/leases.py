"""Schemas of what a worker on another machine asks for and reports under a lease."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rvc_engine.errors import FailureCode
from rvc_train.schemas.base import RequestModel, ResponseModel
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from rvc_train.schemas.work.protocol import MAX_EVENTS
from rvc_train.schemas.work.workers import Sha256, Text, WorkFile

MAX_MESSAGE = 10_000
MAX_LOG_CHARACTERS = 100_000


class WorkInputs(ResponseModel):
    """Files of a job that its engine reads."""

    dataset_id: str
    """Id of the recordings."""
    provenance: dict[str, Any]
    """Origin of the recordings, for the voice's card."""
    recordings: list[WorkFile]
    start: list[WorkFile]
    """`generator.pth` and `discriminator.pth` to start from; empty for published base weights."""
    start_origin: str | None
    """Description of those files, for the voice's record."""


class FileReceived(ResponseModel):
    """Part of a file that the server has."""

    received_bytes: int
    is_complete: bool


class CheckpointRow(RequestModel):
    """A recovery checkpoint."""

    file: str = Field(pattern=r"^step_[0-9]{9}\.pt$")
    step: int = Field(ge=0, le=2**53)
    epoch: int = Field(ge=0, le=2**53)
    size: int = Field(ge=0, le=2**60)
    sha256: Sha256


class CheckpointCommit(RequestModel):
    """A checkpoint whose files were sent."""

    checkpoint: CheckpointRow
    best: Sha256 | None = None
    """The best save so far."""
    evaluations: Sha256 | None = None
    """Record of the evaluations."""


class StoredCheckpoints(ResponseModel):
    """The newest checkpoints that the server has of a job."""

    token: int | None
    """Number of the lease under which they were stored; null without any."""
    checkpoints: list[CheckpointRow]
    """Oldest first."""
    others: list[WorkFile]
    """The best save and the record of evaluations, where there are some."""


class EngineStarted(RequestModel):
    """The attempt's engine process."""

    pid: int = Field(ge=0, le=2**53)
    started_at: float = Field(ge=0, le=1e12)


class EventsReport(RequestModel):
    """A batch of the engine's events."""

    number: int = Field(ge=1, le=2**53)
    """From 1 under each lease; a number that was recorded changes nothing."""
    events: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_EVENTS)
    """Events as the engine writes them. One that names files stands alone, with the sha256 of each sent file in place
    of its path."""


class LogLines(RequestModel):
    """Lines of a job's log."""

    offset: int = Field(ge=0, le=2**60)
    """Bytes of the log, in UTF-8, that were sent before under this lease: lines that are repeated count once."""
    text: str = Field(max_length=MAX_LOG_CHARACTERS)


class OutcomeReport(RequestModel):
    """Outcome of an attempt."""

    outcome: Literal["success", "released", "failure", "worker_fault"]
    """released: the engine stopped on request. worker_fault: the worker failed, not the attempt."""
    code: Annotated[FailureCode, Field(strict=False)] = FailureCode.INTERNAL
    """Code of a failure."""
    message: str = Field(default="", max_length=MAX_MESSAGE)


class OutcomeAnswer(ResponseModel):
    """The job after its attempt."""

    status: JobStatus


class ConversionBeat(RequestModel):
    """Heartbeat of a conversion."""

    progress: float = Field(ge=0, le=1)
    """Share that is done."""


class ConversionBeatAnswer(ResponseModel):
    """Answer to the heartbeat of a conversion."""

    is_over: bool
    """Whether the conversion was cancelled or deleted."""


class ConvertedRecording(RequestModel):
    """Result of one recording: a file that was sent, or an error."""

    name: Text
    sha256: Sha256 | None = None
    seconds: float | None = Field(default=None, ge=0)
    pitch_shift: float | None = None
    """Semitones."""
    error: str | None = Field(default=None, max_length=MAX_MESSAGE)


class ConversionResults(RequestModel):
    """Results of a conversion, one for each recording in their order."""

    results: list[ConvertedRecording] = Field(max_length=1000)
    device: Text
    device_reason: str = Field(max_length=MAX_MESSAGE)


class ConversionEnded(ResponseModel):
    """The conversion after its end."""

    status: ConversionStatus


class ConversionFailed(RequestModel):
    """Failure of a whole conversion."""

    code: Annotated[ConversionFailure, Field(strict=False)]
    message: str = Field(max_length=MAX_MESSAGE)
    """For its owner."""
