"""What a job makes: artifacts, evaluations, previews and checkpoints."""

from datetime import datetime

from rvc_train.schemas.base import ResponseModel


class PreviewFile(ResponseModel):
    """A file of a preview."""

    name: str
    url: str
    """Path of the file on this server."""
    size: int
    sha256: str


class PreviewPublic(ResponseModel):
    """A clip as the voice spoke it at a save."""

    step: int
    epoch: int
    clip: int
    """1, 2...: the same clips over the whole job."""
    seconds: float
    scores: dict[str, float]
    """Of this clip alone, by the keys of the metrics `eval/...`."""
    is_best: bool
    """Whether the save is the best of the job so far."""
    audio: PreviewFile
    """FLAC."""
    picture: PreviewFile
    """PNG: its log-mel below the recording's."""
    recording: PreviewFile
    """FLAC: the clip as it was recorded."""
    created_at: datetime


class PreviewList(ResponseModel):
    """All previews of a job, by step."""

    data: list[PreviewPublic]


class CheckpointPublic(ResponseModel):
    """A save that was evaluated."""

    step: int
    epoch: int
    scores: dict[str, float]
    """By the keys of the metrics: `eval/mel` (the lowest is the best), `eval/f0_cents`, `eval/voicing`..."""
    held_out: bool
    """Whether the clips it was measured on are kept out of training."""
    num_clips: int
    is_best: bool
    """Whether it is the best of the job so far: what the artifact of kind `best` holds once the job is done."""
    created_at: datetime


class CheckpointList(ResponseModel):
    """All evaluated saves of a job, by step."""

    data: list[CheckpointPublic]


CONTENT_NOTICE = (
    "This voice is trained with the content encoder {encoder}. {note}. Use content=contentvec for a voice that "
    "converts in RVC and Applio."
)


class ArtifactPublic(ResponseModel):
    """A file that a job offers."""

    id: str
    kind: str
    name: str
    size: int
    sha256: str
    created_at: datetime
    url: str
    """Path of the file on this server."""
    content_notice: str | None


class ArtifactList(ResponseModel):
    """All files of a job."""

    data: list[ArtifactPublic]
