"""Schemas of datasets and their reports."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rvc_engine.audio.parts import MAX_PARTS
from rvc_engine.card.provenance import Consent, Day, Line, Statement
from rvc_engine.names.code_pages import AUTO, CODES, code_page
from rvc_train.schemas.base import RequestModel, ResponseModel, SizedModel


class LeftOutPart(ResponseModel):
    """Part of a recording that is left out, in seconds from the recording's start."""

    from_seconds: float
    to_seconds: float


class RecordingReport(ResponseModel):
    """Report on one recording."""

    name: str
    seconds: float | None = None
    """Length without the parts that are left out; all that is measured is of the rest."""
    sample_rate: int | None = None
    channels: int | None = None
    container: str | None = None
    codec: str | None = None
    peak: float | None = None
    """Largest sample; full scale is 1."""
    clipped_share: float | None = None
    """Share of samples at full scale, 0..1."""
    speech_seconds: float | None = None
    speech_db: float | None = None
    """Level of speech, dB of full scale; like the following fields null when there is too little speech to measure."""
    noise_db: float | None = None
    """Level of the background noise, dB of full scale."""
    snr_db: float | None = None
    bandwidth_hz: float | None = None
    """Highest frequency with content."""
    notes: list[str] = []
    error: str | None = None
    """Reason why the file cannot be read."""
    kept_seconds: float | None = None
    """Time that training will use; like the following fields null or empty in reports of older versions."""
    dropped_seconds: dict[str, float] = {}
    """Time that it will not use, by reason: `silent`, `too_short`, `too_loud`, `not_a_number`, `unreadable`,
    `left_out`."""
    remarks: list[str] = []
    """Clauses on how the recording is changed before anything else, such as scaled to full scale."""
    without_parts: list[LeftOutPart] = []
    """Parts that are left out by choice, in order."""


class LeftOutFile(ResponseModel):
    """File of a dataset that is left out, since its name shows that it is no recording."""

    name: str
    """Its name; a folder's ends with `/`."""
    reason: str
    """The reason, as a clause."""
    code: str = ""
    """Stable code of the reason: `text`, `image`, `hidden`, ...; empty for others."""


class DatasetFinding(ResponseModel):
    """Finding about a dataset."""

    code: str
    """Stable code: `noisy`, `reverberant`, `several_speakers`, `duplicates`, ..."""
    severity: Literal["warning", "info"]
    message: str
    """The finding, in a sentence."""
    advice: str
    """Recommended action."""
    files: list[str] = []
    """Files concerned, at most 200; empty: all of them."""
    values: dict[str, float] = {}
    """Numbers in the message."""
    superfluous: list[str] = []
    """Files that may be left out without a loss, at most 200: copies of others."""


class DatasetOverview(ResponseModel):
    """Waveform of a dataset, one recording after the other, for drawing."""

    peaks: list[float] = []
    """Peak levels of equal parts of the time, 0..1."""
    starts: list[float] = []
    """Start of each recording, 0..1 of the whole; empty when there are too many recordings."""


class DatasetReport(ResponseModel):
    """Report on a dataset, made by `python -m rvc_engine report`."""

    usable: bool
    reason: str | None = None
    seconds: float = 0.0
    speech_seconds: float | None = None
    silence_share: float | None = None
    num_files: int = 0
    num_usable: int = 0
    files: list[RecordingReport] = []
    warnings: list[str] = []
    """Findings of severity `warning`, one sentence each."""
    findings: list[DatasetFinding] = []
    """Findings, the most severe first."""
    sample_rates: dict[str, float] = {}
    """Seconds of audio by sample rate in Hz."""
    clipped_share: float | None = None
    speech_db: float | None = None
    """Median of all files; like the following fields null when there is too little speech to measure."""
    noise_db: float | None = None
    snr_db: float | None = None
    reverberation_seconds: float | None = None
    """Estimated time in which sound decays by 60 dB; at most 0.35 for dry speech."""
    bandwidth_hz: float | None = None
    overview: DatasetOverview = DatasetOverview()
    """Empty in reports of older versions."""
    kept_seconds: float | None = None
    """Time that training will use; null in reports of older versions."""
    dropped_seconds: dict[str, float] = {}
    """Time that it will not use, by reason as in `files`."""
    left_out: list[LeftOutFile] = []
    """All files of the upload that were left out; empty in reports of older versions."""


class DatasetStatus(StrEnum):
    """Status of a dataset."""

    INGESTING = "ingesting"
    """Its recordings are being downloaded or unpacked; jobs may be submitted, and wait."""
    VALIDATING = "validating"
    READY = "ready"
    INVALID = "invalid"


def check_code(code: str) -> str:
    """Return the code page's name for users, or `auto`; raises ValueError."""
    return AUTO if code == AUTO else code_page(code).code


MAX_WITHOUT = 10_000
MAX_URLS = 100
MIN_PART_SECONDS = 0.01

ZIP_NAMES = f"Code page of names in zips that are not in UTF-8: `{AUTO}`, or one of {', '.join(CODES)}."
ZipNames = Annotated[str, Field(max_length=40, description=ZIP_NAMES), AfterValidator(check_code)]


class ConsentCreate(RequestModel):
    """Consent of the speaker to the use of their recordings: who, what and when, and a document that shows it."""

    speaker: Line
    """Person whom the recordings are of."""
    statement: Statement
    """Use that they agree to, in words."""
    date: Day
    """Day on which they did, such as 2026-11-30."""
    upload_id: str | None = Field(default=None, min_length=1, max_length=64)
    """Id of a complete upload of a document, at most 10 MB."""
    document_name: Line = "document"
    """File name of the document."""


Url = Annotated[str, Field(min_length=1, max_length=4000)]


_Seconds = Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False)]


class RecordingPart(RequestModel):
    """Part of a recording to leave out."""

    recording: int = Field(ge=1, le=10**9)
    """Number of the recording: its place in the report, from 1."""
    from_seconds: _Seconds
    """Start, in seconds from the recording's start."""
    to_seconds: _Seconds
    """End; beyond the recording's end it stands for that."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.to_seconds - self.from_seconds < MIN_PART_SECONDS:
            raise ValueError(f"to_seconds must be at least {MIN_PART_SECONDS} s after from_seconds")
        return self


class DatasetCreate(RequestModel):
    """Request to make a dataset: from a complete upload, from addresses, or from what the server has already."""

    name: str = Field(min_length=1, max_length=200)
    """Name of the dataset."""
    upload_id: str | None = Field(default=None, max_length=64)
    """Id of the upload, the end of its `Location`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Hash of a zip or a recording that was uploaded before."""
    url: Url | None = None
    """Address of a zip or a recording, which the server downloads: http, https, or a dataset on a Hugging Face hub as
    `hf://datasets/OWNER/NAME`, with `@REVISION` and a folder, a file or a pattern such as `/train/*.wav` if needed."""
    urls: list[Url] = Field(default=[], max_length=MAX_URLS)
    """Several of them, which make one dataset."""
    dataset_id: str | None = Field(default=None, max_length=64)
    """Id of a dataset, of which the new one has all recordings but those in `without` and `without_parts`."""
    without: list[Annotated[str, Field(max_length=400)]] = Field(default=[], max_length=MAX_WITHOUT)
    """Names of the recordings to leave out, as in the report."""
    without_parts: list[RecordingPart] = Field(default=[], max_length=MAX_PARTS)
    """Parts of other recordings to leave out; they may overlap. What the dataset leaves out already stays so."""
    zip_names: ZipNames = AUTO
    """Not for a dataset made from another one, whose names are as they were read there."""
    consent: ConsentCreate | None = None
    """Consent of the speaker. A dataset made from another one has that one's, unless it is given."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if [self.upload_id, self.sha256, self.dataset_id, self.url, self.urls or None].count(None) != 4:
            raise ValueError("give one of upload_id, sha256, dataset_id, url and urls")
        if (self.dataset_id is None) == bool(self.without or self.without_parts):
            raise ValueError(
                "give dataset_id with the recordings to leave out in without, or parts of them in without_parts"
            )
        return self


class DatasetFetch(ResponseModel):
    """Progress of the download of a dataset."""

    num_files: int | None = None
    """Number of its files; null until a hub has listed them."""
    num_fetched: int = 0
    """Number of those that are complete."""
    received_bytes: int = 0
    total_bytes: int | None = None
    """Bytes of all files; null until they are known."""


class DatasetPublic(SizedModel):
    """Dataset."""

    id: str
    owner: str
    name: str
    status: DatasetStatus
    reason: str | None
    """Reason why it is invalid, or why its ingestion waits, in a sentence."""
    fetch: DatasetFetch | None = None
    """Progress while the server downloads it, before its recordings are unpacked; null for others, and afterwards."""
    sha256: str
    """Hash of the uploaded or downloaded bytes; of several downloads a digest of their hashes and names, of a derived
    dataset one of its origin's and of what is left out. It changes when a download is complete."""
    derived_from: str | None = None
    """Id of the dataset of which it has all recordings but some, or parts of some, and which may have been deleted."""
    zip_names: str = AUTO
    """Code page in which names of zips that are not in UTF-8 are read; `auto`: chosen by the names."""
    num_files: int
    """0 while the recordings are being ingested."""
    num_usable: int | None
    seconds: float | None
    """Total duration of the usable recordings, without parts that are left out; null until the report is ready."""
    notes: list[str]
    """Files left out at admission, with reasons."""
    created_at: datetime
    validated_at: datetime | None
    consent: Consent | None = None
    """Consent of the speaker; null where none was given."""
