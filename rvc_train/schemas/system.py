"""Schemas of the server itself: health, limits, and problem details (RFC 9457)."""

from typing import Literal

from rvc_train.schemas.base import ResponseModel


class Limits(ResponseModel):
    """Limits of uploads and conversions."""

    max_upload_bytes: int
    max_files: int
    max_unpacked_bytes: int
    max_file_bytes: int
    max_conversion_bytes: int | None = None
    """Size of a recording to convert with a voice; null, as the next field, from a server without conversions."""
    max_conversion_seconds: float | None = None


class FileRulePublic(ResponseModel):
    """Kind of files that are left out of a dataset by their names."""

    code: str
    """Stable code: `text`, `image`, `hidden`, ..."""
    reason: str
    """The kind, as a clause."""
    pattern: str
    """Regular expression that is searched for, ignoring case, in a file's path within the dataset with `/` between its
    parts; a folder's path ends with `/`. Valid in JavaScript and Python."""


class SystemPublic(ResponseModel):
    """Version, limits and machine of the server."""

    name: str
    version: str
    python: str
    database: str
    database_version: str
    limits: Limits
    file_rules: list[FileRulePublic] = []
    """Files that are left out of a dataset; of two rules that match, the first holds. All others are recordings."""
    disk_free_bytes: int
    disk_total_bytes: int
    num_cores: int
    memory_total_bytes: int
    needs_token: bool
    """Always true: there is no mode without a token."""
    warnings: list[str]


class ProblemDetail(ResponseModel):
    """One fault of a request."""

    detail: str
    pointer: str = ""
    """JSON pointer into the body (RFC 6901); empty for the body as a whole, and for a fault elsewhere."""
    parameter: str | None = None
    """Name of the parameter at fault, in the query or the path."""
    header: str | None = None
    """Name of the header at fault."""


class Problem(ResponseModel):
    """Problem details (RFC 9457)."""

    type: str
    """Address on this server that describes the code."""
    title: str
    status: int
    detail: str
    instance: str
    code: str
    """Stable code; `GET /problems/{code}` describes it."""
    request_id: str
    retryable: bool
    """Whether the same request may succeed later."""
    errors: list[ProblemDetail] = []


class ProblemTypePublic(ResponseModel):
    """Description of a code of errors."""

    code: str
    type: str
    """Address of this description, as in the problems with this code."""
    statuses: list[int]
    """HTTP statuses that it comes with."""
    meaning: str
    advice: str
    """Recommended action."""
    retryable: bool
    """Whether the same request may succeed later, with nothing changed by the caller."""


class Health(ResponseModel):
    """Health of the server, with the failed checks when it is not ready."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
