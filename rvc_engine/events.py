"""Events of a run: the engine's output, one JSON object per line on standard output.

A line that is not an event (printed by a library) is parsed as a `Log` event, so that nothing is lost. Names and order
of the stages are defined here too, because every reader needs them. This module imports no torch.
"""

import time
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rvc_engine.errors import ArtifactInvalid, FailureCode

Stage = Literal["slice", "pitch", "content", "train", "index", "export"]
STAGES: tuple[Stage, ...] = ("slice", "pitch", "content", "train", "index", "export")

Level = Literal["debug", "info", "warning", "error"]

EXIT_SUCCEEDED = 0
EXIT_FAILED = 1
"""A `failed` event was the last one."""
EXIT_USAGE = 2
EXIT_STOPPED = 3
EXIT_RESTART = 4
"""The engine begins again in a new process; never the exit code of a program."""
"""A `stopped` event was the last one: the run can be resumed."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    time: float = Field(default_factory=time.time)
    """Unix time in seconds, by the engine's clock."""


class StageChanged(_Event):
    """Start or end of a stage, or its omission because the result was already there."""

    type: Literal["stage_changed"] = "stage_changed"
    stage: Stage
    state: Literal["started", "finished", "skipped"]
    seconds: float | None = None
    """Duration, once finished."""


class Progress(_Event):
    """Progress of the run. At most about two events per second."""

    type: Literal["progress"] = "progress"
    stage: Stage
    stage_progress: float = Field(ge=0, le=1)
    progress: float = Field(ge=0, le=1)
    """Over all stages; never decreases within an attempt."""
    eta_seconds: float | None = None
    """Seconds until the end of the run; None while unknown."""
    epoch: int | None = None
    """From 1, while training."""
    total_epochs: int | None = None
    """With `total_epochs=auto`, `max_epochs`; `total_steps` too is then the most."""
    step: int | None = None
    """Optimizer steps since the start of the run's first attempt."""
    total_steps: int | None = None
    step_seconds: float | None = None
    """Duration of a recent step."""
    clips_per_second: float | None = None
    """Training clips per second of recent steps."""
    machine_share: float | None = None
    """Model FLOPS utilization: operations per second of recent steps, as a share of those that the device reaches in
    matrix products of the same number format. None in the first seconds, or where it cannot be measured."""


class Metric(_Event):
    """Metrics of a training step: `loss/gen`, `loss/disc`, `loss/mel`, `loss/kl`, `loss/fm`, `grad_norm/g`,
    `grad_norm/d`, `learning_rate`, and after the first seconds `speed/clips_per_second` and
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
    """Warning to the user about a problem that does not end the run (an unreadable recording, a damaged checkpoint)."""

    type: Literal["warning"] = "warning"
    message: str
    stage: Stage | None = None


class CheckpointSaved(_Event):
    """A recovery checkpoint was written: a later attempt resumes from it."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int
    epoch: int
    path: str


class Evaluated(_Event):
    """Scores of a save on fixed clips with fixed noise, comparable within a run."""

    type: Literal["evaluated"] = "evaluated"
    step: int
    epoch: int
    values: dict[str, float]
    """By metric name: `eval/mel` (the lowest is the best), `eval/mel_posterior`, `eval/f0_cents`, `eval/voicing` (share
    of frames), `eval/similarity` (at most 1). Values that could not be measured are left out."""
    held_out: bool
    """Whether the clips are held out of training; if not, the dataset is too short for that, and they are training
    clips, whose values overestimate the voice."""
    is_best: bool
    """Whether no save of the run so far has a lower `eval/mel`."""
    num_clips: int
    seconds: float
    """Duration of the evaluation, with previews."""


EndReason = Literal["no_better_save", "max_epochs", "max_train_seconds"]


class TrainingEnded(_Event):
    """End of a training with `total_epochs=auto`, whose voice is the best save."""

    type: Literal["training_ended"] = "training_ended"
    reason: EndReason
    """no_better_save: saves no longer improved, by `stop_share`. The others: that limit was reached."""
    step: int
    epoch: int
    best_step: int | None = None
    """Step of the best save; None where no save was evaluated, and the voice is the last one."""
    best_epoch: int | None = None


QualityMetric = Literal["similarity", "naturalness", "character_error_rate", "f0_correlation", "voicing_agreement"]
QUALITY_METRICS: tuple[QualityMetric, ...] = get_args(QualityMetric)
QUALITY_PREFIX = "quality/"
"""Keys of a finished voice's scores: `quality/similarity`, with `quality/similarity/floor` and `.../ceiling`."""


class QualityScored(_Event):
    """Scores of a save by conversions of two other speakers, a woman and a man, once the voice is complete.

    The floor is the score without a voice: of the unconverted recordings, or of the conversion against a sentence that
    is not its own. The ceiling is that of the speaker's own recordings, or of their conversion with the voice.
    """

    type: Literal["quality_scored"] = "quality_scored"
    step: int
    epoch: int
    values: dict[str, float]
    """By `quality/` and metric, and with `/floor` and `/ceiling` its bounds: `similarity` of the speaker (cosine, at
    most 1), `naturalness` (DNSMOS, 1 to 5), `character_error_rate` (of a transcript, 0 is best), `f0_correlation` (of
    log F0 with the source's, at most 1), `voicing_agreement` (share of frames). What could not be measured is left
    out."""
    seconds: float
    """Duration of the conversions and their scoring."""


class PreviewReady(_Event):
    """Preview of a save: a clip rendered with the voice, as audio and as picture."""

    type: Literal["preview_ready"] = "preview_ready"
    step: int
    epoch: int
    clip: int
    """Number of the clip from 1; a number is the same clip over the whole run."""
    audio: str
    """Path of the rendered clip, FLAC."""
    picture: str
    """Path of its log-mel and the recording's, PNG."""
    recording: str
    """Path of the recorded clip, FLAC."""
    seconds: float
    """Length of the clip."""
    scores: dict[str, float]
    """Scores of this clip, by the keys of `Evaluated.values`."""


ArtifactKind = Literal["voice", "index", "speaker_index", "best", "report", "card"]
"""speaker_index: index of one of several speakers; index: the one over all speakers; card: the voice's model card."""


class ArtifactReady(_Event):
    """A file of the voice that passed its check is in the workspace."""

    type: Literal["artifact"] = "artifact"
    kind: ArtifactKind
    name: str
    """File name for download, such as `anna.pth`."""
    path: str
    size: int
    sha256: str

    def check(self, size: int, sha256: str) -> None:
        """Raise ArtifactInvalid unless the file that is to be published has the announced size and sha256."""
        if (size, sha256) != (self.size, self.sha256):
            raise ArtifactInvalid(
                f"{self.name} changed after the engine checked it ({size} bytes with sha256 {sha256}, announced "
                f"{self.size} with {self.sha256}); submit the job again"
            )


class Failed(_Event):
    """The run failed. The last event."""

    type: Literal["failed"] = "failed"
    code: FailureCode
    message: str


class Stopped(_Event):
    """The run was stopped on request; a new attempt resumes it. The last event."""

    type: Literal["stopped"] = "stopped"
    message: str


class Succeeded(_Event):
    """The voice is complete. The last event."""

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
    | TrainingEnded
    | QualityScored
    | PreviewReady
    | ArtifactReady
    | Failed
    | Stopped
    | Succeeded
)

_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(line: str) -> Event:
    """Parse a line of the engine's standard output; a line that is not an event becomes a `Log`."""
    try:
        return _adapter.validate_json(line)
    except ValidationError:
        return Log(message=line.rstrip())


def format_event(event: Event) -> str:
    """Format an event as one line of JSON, without a newline."""
    return event.model_dump_json(exclude_none=True)
