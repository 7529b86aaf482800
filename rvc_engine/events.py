"""What the engine says while it works: one JSON object a line on standard output.

A reader that meets a line which is no event (a library that printed something) gets it as a `Log` event, so nothing is
lost and nothing breaks. Order of the stages and the words for them stand here as well, because every reader needs them.
This module imports no torch.
"""

import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rvc_engine.errors import FailureCode

Stage = Literal["slice", "pitch", "content", "train", "index", "export"]
STAGES: tuple[Stage, ...] = ("slice", "pitch", "content", "train", "index", "export")

Level = Literal["debug", "info", "warning", "error"]

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1
"""A `failed` event was the last one."""
EXIT_USAGE = 2
EXIT_STOPPED = 3
"""A `stopped` event was the last one: the run can be taken up again where it was."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    time: float = Field(default_factory=time.time)
    """Seconds since the epoch, by the engine's clock."""


class StageChanged(_Event):
    """A stage began, ended, or was skipped because its result was already there."""

    type: Literal["stage_changed"] = "stage_changed"
    stage: Stage
    state: Literal["started", "finished", "skipped"]
    seconds: float | None = None
    """How long it took, once finished."""


class Progress(_Event):
    """How far the run is. At most about two a second."""

    type: Literal["progress"] = "progress"
    stage: Stage
    stage_progress: float = Field(ge=0, le=1)
    progress: float = Field(ge=0, le=1)
    """Over all stages; never falls within an attempt."""
    eta_seconds: float | None = None
    """Until the run's end; None while unknown."""
    epoch: int | None = None
    """1-based, while training."""
    total_epochs: int | None = None
    step: int | None = None
    """Optimizer steps done since the run's first attempt."""
    total_steps: int | None = None
    step_seconds: float | None = None
    """Time of a recent step."""
    clips_per_second: float | None = None
    """Training clips that recent steps learnt from a second."""
    machine_share: float | None = None
    """Operations a second of recent steps, as a share of those that the device reaches in matrix products of the same
    number format. None before training has gone on for some seconds, or where it cannot be measured."""


class Metric(_Event):
    """Numbers measured at a training step: `loss/gen`, `loss/disc`, `loss/mel`, `loss/kl`, `loss/fm`, `grad_norm/g`,
    `grad_norm/d`, `learning_rate`, and once training has gone on for some seconds `speed/clips_per_second` and
    `speed/machine_share`."""

    type: Literal["metric"] = "metric"
    step: int
    epoch: int
    values: dict[str, float]


class Log(_Event):
    """A line for the log."""

    type: Literal["log"] = "log"
    level: Level = "info"
    message: str


class Warned(_Event):
    """Something the person should know of, though the run goes on (an unreadable recording, a damaged checkpoint)."""

    type: Literal["warning"] = "warning"
    message: str
    stage: Stage | None = None


class CheckpointSaved(_Event):
    """A recovery checkpoint is on disk: a later attempt goes on from here."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int
    epoch: int
    path: str


class Evaluated(_Event):
    """A save was measured on fixed clips, with fixed noise: values of one run can be compared."""

    type: Literal["evaluated"] = "evaluated"
    step: int
    epoch: int
    values: dict[str, float]
    """By the keys that the metrics use: `eval/mel` (the lowest is the best), `eval/mel_posterior`, `eval/f0_cents`,
    `eval/voicing` (share of frames), `eval/similarity` (at most 1). What could not be measured is left out."""
    held_out: bool
    """Whether the clips are kept out of training; otherwise the dataset is too short for that and they are training
    clips, whose values look better than the voice is."""
    is_best: bool
    """Whether no save of the run so far has a lower `eval/mel`."""
    num_clips: int
    seconds: float
    """What it cost, with previews."""


class PreviewReady(_Event):
    """A clip spoken by the voice as it is at a save, to listen to and to look at."""

    type: Literal["preview_ready"] = "preview_ready"
    step: int
    epoch: int
    clip: int
    """1, 2...: the same clips over the whole run."""
    audio: str
    """Path of the rendered clip, FLAC."""
    picture: str
    """Path of its log-mel beside the recording's, PNG."""
    recording: str
    """Path of the clip as it was recorded, FLAC."""
    seconds: float
    """Length of the clip."""
    scores: dict[str, float]
    """Of this clip alone, by the keys of `Evaluated.values`."""


ArtifactKind = Literal["voice", "index", "speaker_index", "best", "report"]
"""speaker_index: of one speaker of a voice that has several; index is the one over all of them."""


class ArtifactReady(_Event):
    """A file of the voice passed its check and lies in the workspace."""

    type: Literal["artifact"] = "artifact"
    kind: ArtifactKind
    name: str
    """File name for the person, such as `anna.pth`."""
    path: str
    size: int
    sha256: str


class Failed(_Event):
    """The run cannot go on. The last event."""

    type: Literal["failed"] = "failed"
    code: FailureCode
    message: str


class Stopped(_Event):
    """The run stopped because it was asked to; started again it goes on. The last event."""

    type: Literal["stopped"] = "stopped"
    message: str


class Succeeded(_Event):
    """The voice is made. The last event."""

    type: Literal["succeeded"] = "succeeded"
    message: str


Event = (
    StageChanged
    | Progress
    | Metric
    | Log
    | Warned
    | CheckpointSaved
    | Evaluated
    | PreviewReady
    | ArtifactReady
    | Failed
    | Stopped
    | Succeeded
)

_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(line: str) -> Event:
    """The event that a line of the engine's standard output holds; a line that holds none becomes a `Log`."""
    try:
        return _adapter.validate_json(line)
    except ValidationError:
        return Log(message=line.rstrip())


def format_event(event: Event) -> str:
    """One line of JSON, without the line's end."""
    return event.model_dump_json(exclude_none=True)
