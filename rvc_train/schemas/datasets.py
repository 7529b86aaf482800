"""Datasets and their reports."""

from datetime import datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from rvc_train.schemas.base import RequestModel, ResponseModel


class RecordingReport(ResponseModel):
    """One recording of a dataset."""

    name: str
    seconds: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    container: str | None = None
    codec: str | None = None
    peak: float | None = None
    """Largest sample; full scale is 1."""
    clipped_share: float | None = None
    """0..1: samples at full scale."""
    speech_seconds: float | None = None
    speech_db: float | None = None
    """Level of speech, dB of full scale; this and what follows is None where there is too little to tell."""
    noise_db: float | None = None
    """Level of the noise beneath."""
    snr_db: float | None = None
    bandwidth_hz: float | None = None
    """Up to where the file holds anything."""
    notes: list[str] = []
    error: str | None = None
    """Why it could not be read."""


class DatasetFinding(ResponseModel):
    """One thing to know about a dataset."""

    code: str
    """Stable: `noisy`, `reverberant`, `several_speakers`, `duplicates`, ..."""
    severity: Literal["warning", "info"]
    message: str
    """What was found."""
    advice: str
    """What to do about it."""
    files: list[str] = []
    """Which files it is about, at most 200; none: all of them."""
    values: dict[str, float] = {}
    """The numbers in the message."""


class DatasetOverview(ResponseModel):
    """The loudness of a dataset, one recording after the other, to be drawn."""

    peaks: list[float] = []
    """0..1, for equal parts of the time."""
    starts: list[float] = []
    """Where each recording begins, 0..1 of the whole; none where there are too many."""


class DatasetReport(ResponseModel):
    """What `python -m rvc_engine report` found in a dataset."""

    usable: bool
    reason: str | None = None
    seconds: float = 0.0
    speech_seconds: float | None = None
    silence_share: float | None = None
    num_files: int = 0
    num_usable: int = 0
    files: list[RecordingReport] = []
    warnings: list[str] = []
    """The findings that are warnings, one sentence each."""
    findings: list[DatasetFinding] = []
    """The gravest first."""
    sample_rates: dict[str, float] = {}
    """Seconds of sound by sample rate in Hz."""
    clipped_share: float | None = None
    speech_db: float | None = None
    """Median of all files; this and what follows is None where there is too little to tell."""
    noise_db: float | None = None
    snr_db: float | None = None
    reverberation_seconds: float | None = None
    """About the time in which sound fades by 60 dB; dry speech gives 0.35 and less."""
    bandwidth_hz: float | None = None
    overview: DatasetOverview = DatasetOverview()
    """Empty for reports that were made before there was one."""


class DatasetStatus(StrEnum):
    """Where a dataset stands."""

    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"


class DatasetCreate(RequestModel):
    """A dataset of an upload that has come whole, or of bytes that the server has already. Exactly one of the two."""

    name: str = Field(max_length=200)
    """What the dataset is called."""
    upload_id: str | None = Field(default=None, max_length=64)
    """The upload's id, the end of its `Location`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the zip or the recording, as it was uploaded before."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.upload_id is None) == (self.sha256 is None):
            raise ValueError("give either upload_id or sha256")
        return self


class DatasetPublic(ResponseModel):
    """A dataset as everyone sees it."""

    id: str
    owner: str
    name: str
    status: DatasetStatus
    reason: str | None
    """Why it is invalid, in a sentence."""
    sha256: str
    """Of the uploaded bytes."""
    size: int
    """Bytes uploaded."""
    num_files: int
    num_usable: int | None
    seconds: float | None
    """Length of all usable recordings together; None until the report is there."""
    notes: list[str]
    """What was left out at admission, and why."""
    created_at: datetime
    validated_at: datetime | None
