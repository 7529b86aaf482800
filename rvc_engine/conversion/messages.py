"""Messages of `rvc-engine serve-conversions`: requests on standard input, events on standard output. No torch.

One JSON object a line. A request converts one recording; its last event is `converted` or `failed`. Requests are served
one after the other, in the order in which they came. Lines on standard output that are none of these are a library's.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rvc_engine.config import PitchEstimator
from rvc_engine.errors import FailureCode

CANCELLED = "cancelled"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    """The request's."""


class Convert(_Message):
    """Request to convert one recording."""

    type: Literal["convert"] = "convert"
    samples: Path
    """The recording as `rvc_engine.conversion.decoding` writes it: float32, mono, 16 kHz."""
    target: Path
    """File to write; its suffix is the format."""
    voice: Path
    """A voice file, or a `G_` file of a training, in the folder of its run."""
    index: Path | None = None
    pitch_shift: float | Literal["auto"] = 0.0
    """Semitones; auto: from the recording's median pitch to the voice's."""
    pitch: PitchEstimator = "swift"
    index_rate: float = 0.75
    protect: float = 0.33
    rms_mix_rate: float = 0.25
    sample_rate: Literal["32k", "40k", "48k"] | None = None
    """The training's, for a `G_` file whose tensors leave it open."""
    content: str | None = None
    """Content encoder of that training, where no file beside it names one."""
    speaker: str = ""
    """Number or name; empty: the first."""
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    """CPU threads for this request; None: those of the program."""


class Cancel(_Message):
    """Request to end another one, running or waiting, which then fails with the code `cancelled`."""

    type: Literal["cancel"] = "cancel"


class VoiceReady(_Message):
    """The voice is loaded; conversion begins."""

    type: Literal["voice_ready"] = "voice_ready"
    was_loaded: bool
    """Whether it still was, from an earlier request."""
    seconds: float
    """Time that loading took."""


class Converting(_Message):
    """Progress of a request."""

    type: Literal["converting"] = "converting"
    share: float = Field(ge=0, le=1)


class Converted(_Message):
    """The file is written. The last event of its request."""

    type: Literal["converted"] = "converted"
    seconds: float
    """Length of the output."""
    sample_rate: int
    pitch_shift: float
    """Semitones that the pitch was raised by."""
    held_bytes: int = 0
    """Memory of a GPU that stays taken between requests."""


class Failed(_Message):
    """The request failed, and others may not. The last event of its request."""

    type: Literal["failed"] = "failed"
    code: FailureCode | Literal["cancelled"]
    """`invalid_dataset` is a fault of the recording, all others are of the voice, the options or the machine."""
    message: str


Request = Convert | Cancel
Reply = VoiceReady | Converting | Converted | Failed

_requests: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_replies: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])


def parse_request(line: str) -> Request | None:
    """A line of standard input; None for one that is not a request."""
    try:
        return _requests.validate_json(line)
    except ValidationError:
        return None


def parse_reply(line: str) -> Reply | None:
    """A line of standard output; None for one that is not an event."""
    try:
        return _replies.validate_json(line)
    except ValidationError:
        return None


def format_message(message: Request | Reply) -> str:
    """A message as one line of JSON, without a newline."""
    return message.model_dump_json(exclude_none=True)


class Decoded(BaseModel):
    """Result of `rvc_engine.conversion.decoding`, in its file DECODED."""

    model_config = ConfigDict(frozen=True)

    seconds: float = 0.0
    """Length of the recording."""
    error: str | None = None
    """A sentence on why it cannot be converted; None when it can."""
    notes: list[str] = []
    """Damage, where part of the recording could be read."""


SAMPLES, DECODED = "samples.f32", "decoded.json"
"""Files that it writes."""
