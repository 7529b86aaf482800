"""Schemas of a job's results: artifacts, evaluated saves, previews."""

from datetime import datetime

from rvc_train.schemas.base import ResponseModel, SizedModel


class PreviewFile(SizedModel):
    """File of a preview."""

    name: str
    url: str
    """Path of the file on this server."""
    sha256: str


class PreviewPublic(ResponseModel):
    """Preview: a clip converted by the voice at an evaluated save."""

    step: int
    epoch: int
    clip: int
    """Number of the clip: 1, 2...; the same clips during the whole job."""
    seconds: float
    scores: dict[str, float]
    """Scores of this clip, by the keys of the metrics `eval/...`."""
    is_best: bool
    """Whether the save is the best of the job so far."""
    audio: PreviewFile
    """FLAC file of the converted clip."""
    picture: PreviewFile
    """PNG picture of its log-mel below the recording's."""
    recording: PreviewFile
    """FLAC file of the recorded clip."""
    created_at: datetime


class CheckpointPublic(ResponseModel):
    """Evaluated save."""

    step: int
    epoch: int
    scores: dict[str, float]
    """Scores by the keys of the metrics: `eval/mel` (the lowest is the best), `eval/f0_cents`, `eval/voicing`..."""
    held_out: bool
    """Whether the evaluated clips are kept out of training."""
    num_clips: int
    is_best: bool
    """Whether it is the best of the job so far, from which the artifact of kind `best` is made."""
    created_at: datetime


CONTENT_NOTICE = (
    "This voice is trained with the content encoder {encoder}. {note}. Use content=contentvec for a voice that "
    "converts in RVC and Applio."
)


class ArtifactPublic(SizedModel):
    """File of a job for download."""

    id: str
    kind: str
    name: str
    sha256: str
    created_at: datetime
    url: str
    """Path of the file on this server."""
    content_notice: str | None
