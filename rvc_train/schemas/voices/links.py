"""Schemas of links, with which one voice can be listened to and downloaded without a token."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from rvc_train.schemas.base import RequestModel, ResponseModel
from rvc_train.schemas.results import QualityScore

DEFAULT_SECONDS = 7 * 86_400
MAX_SECONDS = 365 * 86_400


def _time(value: object) -> object:
    """A time as JSON has it: strict schemas take only datetime objects from Python."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


class VoiceLinkCreate(RequestModel):
    """Request for a link to a voice."""

    expires_in_seconds: int | None = Field(default=None, ge=60, le=MAX_SECONDS)
    """Seconds until it ends; without this and `expires_at` a week."""
    expires_at: Annotated[AwareDatetime, BeforeValidator(_time)] | None = None
    """Time at which it ends, at most a year from now, in place of `expires_in_seconds`."""
    job_id: str | None = Field(default=None, min_length=1, max_length=64)
    """The one version that it shows; null: always the current one."""
    downloads: bool = True
    """Whether the voice's files can be downloaded with it; false: only listened to."""
    note: str = Field(default="", max_length=200, pattern=r"^[^\x00]*$")
    """Its purpose, shown in the list of links only."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if self.expires_in_seconds is not None and self.expires_at is not None:
            raise ValueError("give either expires_in_seconds or expires_at")
        return self


class VoiceLinkPublic(ResponseModel):
    """Link to a voice. Its secret is not stored."""

    id: str
    begins: str
    """First characters of its secret."""
    job_id: str | None
    """The version that it shows; null: the current one."""
    downloads: bool
    note: str
    created_at: datetime
    expires_at: datetime
    has_ended: bool
    last_used_at: datetime | None
    num_uses: int
    """Times that the voice was opened with it."""


class VoiceLinkCreated(VoiceLinkPublic):
    """New link, with its address, which is shown this once."""

    url: str
    """Address for people. Anyone who has it can listen to the voice until the link ends or is deleted."""
    secret: str
    """Last part of the address, for `/v1/shared/{secret}`."""


class SharedFile(ResponseModel):
    """File of a voice that a link shows."""

    kind: str
    name: str
    size_bytes: int
    sha256: str
    url: str
    content_notice: str | None


class SharedClip(ResponseModel):
    """A clip of the recordings, and the same converted with the voice."""

    clip: int
    seconds: float
    epoch: int
    scores: dict[str, float]
    audio_url: str
    """FLAC file of the converted clip."""
    recording_url: str
    """FLAC file of the recorded clip."""
    picture_url: str
    """PNG picture of its log-mel below the recording's."""


class SharedVoicePublic(ResponseModel):
    """Voice as a link shows it."""

    name: str
    version: int
    sample_rate: str
    rvc_version: str
    """v1 or v2."""
    content: str
    """Content encoder."""
    content_notice: str | None
    """Notice for a voice that RVC and Applio load but do not convert correctly."""
    epoch: int | None
    scores: dict[str, float]
    """Scores of its best save; empty where none was evaluated."""
    quality: list[QualityScore] = []
    """Scores of that save by conversions of other speakers, or of the last one; empty where none were made."""
    finished_at: datetime | None
    expires_at: datetime
    downloads: bool
    files: list[SharedFile]
    """Empty where the link is for listening only."""
    card_url: str | None
    """Path of its model card as JSON; null where it has none."""
    clips: list[SharedClip]
    """Clips of its best save, or of the last one where none is the best."""
