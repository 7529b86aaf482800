"""Schemas of conversions: recordings rendered in a voice that was trained here."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rvc_engine.config import PitchEstimator
from rvc_train.schemas.base import Page, RequestModel, ResponseModel

MAX_CONVERSION_FILES = 100
"""Recordings of one conversion."""


class ConversionStatus(StrEnum):
    """Status of a conversion."""

    WAITING = "waiting"
    """Waiting for a worker; see `waiting_for`."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """At least one recording was converted; those that were not have an `error`."""
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self in ENDED_CONVERSIONS


ENDED_CONVERSIONS = frozenset({ConversionStatus.SUCCEEDED, ConversionStatus.FAILED, ConversionStatus.CANCELLED})


class ConversionFailure(StrEnum):
    """Reason why a conversion failed."""

    INVALID_RECORDING = "invalid_recording"
    """None of the recordings could be converted."""
    INVALID_OPTIONS = "invalid_options"
    """An option that does not fit the voice, such as an unknown speaker."""
    VOICE_MISSING = "voice_missing"
    """The files of the voice, or of the save, are not where a worker can read them."""
    MISSING_WEIGHTS = "missing_weights"
    """The worker lacks the content encoder of the voice, or the pitch estimator."""
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    TIMED_OUT = "timed_out"
    ENGINE_CRASHED = "engine_crashed"
    WORKER_LOST = "worker_lost"
    """Two workers, one after the other, stopped responding."""
    INTERNAL = "internal"


AudioFormat = Literal["wav", "flac", "mp3", "opus"]
PitchShift = Annotated[float, Field(ge=-36, le=36)] | Literal["auto"]
Save = Annotated[int, Field(ge=0, lt=10**9)] | Literal["best", "latest"]


class ConversionOptions(RequestModel):
    """Options of a conversion."""

    pitch_shift: PitchShift = 0.0
    """Semitones to raise the pitch by: about 12 from a man to a woman, -12 back. auto: from the median pitch of the
    recording to that of the voice."""
    pitch: PitchEstimator = "swift"
    """Estimator of the pitch curve."""
    index_rate: float = Field(default=0.75, ge=0, le=1)
    """Share of the index's features in the mix: higher is closer to the voice's own pronunciation."""
    protect: float = Field(default=0.33, ge=0, le=0.5)
    """Protection of breath and consonants: 0 most, 0.5 none."""
    rms_mix_rate: float = Field(default=0.25, ge=0, le=1)
    """Loudness: 0 the recording's, 1 the voice's own."""
    format: AudioFormat = "wav"
    """Format of the results."""
    speaker: str = Field(default="", max_length=200, pattern=r"^[^\x00]*$")
    """Number or name of the speaker, for a voice with several; empty: the first."""


class ConversionCreate(ConversionOptions):
    """Request to convert uploaded recordings."""

    upload_id: str | None = Field(default=None, min_length=1, max_length=64)
    """Id of a complete upload: one recording, in any audio format. It is deleted once it is taken in."""
    upload_ids: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None, min_length=1, max_length=MAX_CONVERSION_FILES
    )
    """Several uploads in place of one: a batch."""
    job_id: str | None = Field(default=None, min_length=1, max_length=64)
    """The version of the voice: the job that trained it; null: the voice's current version."""
    save: Save | None = None
    """A save of that job, also while it runs: the number in its file's name `G_<number>.pth`, best or latest; null: the
    finished voice."""

    @model_validator(mode="after")
    def _check_uploads(self) -> Self:
        if (self.upload_id is None) == (self.upload_ids is None):
            raise ValueError("give either upload_id or upload_ids")
        if len(set(self.uploads)) != len(self.uploads):
            raise ValueError("upload_ids names an upload twice; name each once")
        return self

    @property
    def uploads(self) -> list[str]:
        """Ids of all uploads."""
        return self.upload_ids or [str(self.upload_id)]


class ConversionInput(ResponseModel):
    """A recording to convert."""

    name: str
    """Name of the file as it was sent."""
    size_bytes: int


class ConversionResult(ResponseModel):
    """Result of one recording, in the order of the inputs."""

    name: str
    """Name of the file, as `audio?name=` takes it."""
    input: str
    """Name of the recording."""
    size_bytes: int | None = None
    sha256: str | None = None
    seconds: float | None = None
    """Duration of the audio."""
    pitch_shift: float | None = None
    """Semitones by which the pitch was raised, also where that was `auto`."""
    error: str | None = None
    """Reason why this recording was not converted."""


class ConversionError(ResponseModel):
    """Reason why a conversion failed."""

    code: ConversionFailure | str
    message: str


class ConversionPublic(ResponseModel):
    """A conversion."""

    id: str
    owner: str
    voice: str
    job_id: str
    """The job that trained the voice."""
    save: Save | None
    status: ConversionStatus
    waiting_for: str | None = None
    """While it is `waiting`: what for, in words."""
    options: ConversionOptions
    inputs: list[ConversionInput]
    results: list[ConversionResult]
    """Empty until it has ended."""
    progress: float
    """Share that is done, 0 to 1."""
    device: str | None
    """Device that it ran on, such as `cuda:0` or `cpu`."""
    device_reason: str | None
    """Reason for that device, in words."""
    error: ConversionError | None
    size_bytes: int
    """Bytes of all its files, as counted for the owner."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    """Time at which it is deleted with its files; null until it has ended."""


class ConversionEventType(StrEnum):
    """Type of an event of a conversion."""

    CREATED = "created"
    STARTED = "started"
    PROGRESS = "progress"
    """Only in a stream."""
    REQUEUED = "requeued"
    """Waiting again: its worker stopped, or was lost."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ConversionEvent(ResponseModel):
    """Event of a conversion."""

    seq: int
    """Number of the event: 1, 2, 3... per conversion; `progress` has that of the event before it."""
    type: ConversionEventType | str
    message: str
    progress: float | None = None
    """Share that is done, of `progress`."""
    created_at: datetime


ConversionList = Page[ConversionPublic]
ConversionEventList = Page[ConversionEvent]
