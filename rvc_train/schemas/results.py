"""Schemas of a job's results: artifacts, evaluated saves, previews."""

from collections.abc import Mapping
from datetime import datetime

from rvc_engine.events import QUALITY_METRICS, QUALITY_PREFIX, QualityMetric
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


class QualityScore(ResponseModel):
    """Score of a voice by conversions of two speakers that it was not trained on, a woman and a man."""

    metric: QualityMetric | str
    """similarity: of the converted speaker to the voice's, cosine of Resemblyzer, at most 1. naturalness: overall
    quality by DNSMOS P.835, 1 to 5. character_error_rate: of Whisper's transcript of the conversion against that of
    the source, 0 is best. f0_correlation: of log F0 with the source's, at most 1. voicing_agreement: share of frames
    that are voiced, or unvoiced, in both."""
    value: float
    floor: float | None
    """The score without a voice: similarity and naturalness of the unconverted sources; the other metrics of each
    conversion against the other source. Null where it was not measured."""
    ceiling: float | None
    """The score of the speaker's own recordings: similarity and naturalness as they are, the other metrics of their
    conversion with the voice. Null where it was not measured."""


def quality_scores(values: Mapping[str, float]) -> list[QualityScore]:
    """The quality scores among a save's values, by `QUALITY_PREFIX` and metric."""
    return [
        QualityScore(
            metric=name, value=values[key], floor=values.get(f"{key}/floor"), ceiling=values.get(f"{key}/ceiling")
        )
        for name in QUALITY_METRICS
        if (key := f"{QUALITY_PREFIX}{name}") in values
    ]


class CheckpointPublic(ResponseModel):
    """Evaluated save."""

    step: int
    epoch: int
    scores: dict[str, float]
    """Scores by the keys of the metrics: `eval/mel` (the lowest is the best), `eval/f0_cents`, `eval/voicing`... Empty
    for a last save that was not evaluated, but has `quality`."""
    quality: list[QualityScore] = []
    """Scores by conversions of other speakers, of the last and the best save of a finished job; empty for others."""
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
