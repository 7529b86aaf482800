"""Origin of a voice's recordings, and the consent of their speaker. No torch."""

import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_STATEMENT = 4000


def _check_date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date; give one such as 2026-11-30") from error


Line = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$")
]
"""A line of text that is not blank."""
Statement = Annotated[str, Field(min_length=1, max_length=MAX_STATEMENT, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]
Day = Annotated[
    str, Field(min_length=10, max_length=10), AfterValidator(_check_date), Field(json_schema_extra={"format": "date"})
]


class ConsentDocument(BaseModel):
    """Document of a consent, such as a signed form or a recording of the words."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """File name."""
    size_bytes: int
    sha256: str


class Consent(BaseModel):
    """Consent of a speaker to the use of their recordings."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    speaker: str
    """Person whom the recordings are of."""
    statement: str
    """Use that they agree to, in words."""
    date: str
    """Day on which they did, such as 2026-11-30."""
    document: ConsentDocument | None = None
    """File that shows it; null without one."""


class EarlierSave(BaseModel):
    """Save of an earlier job that training began with."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    job_id: str
    voice: str
    save: int


class Provenance(BaseModel):
    """Origin of a job's recordings as the server has it, for the card; all of it is empty without a server."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    job_id: str | None = None
    dataset: str | None = None
    """Name of the dataset."""
    upload_sha256: str | None = None
    """Hash of the bytes that the dataset was made from; of a derived dataset as in its answer."""
    start_from: EarlierSave | None = None
    consent: Consent | None = None
    """As it was when the job was submitted."""
