"""Schemas for administrators: retention policy, published weights."""

from typing import Literal

from pydantic import Field, computed_field

from rvc_train.schemas.base import DEPRECATED, RequestModel, ResponseModel, SizedModel


class RetentionPolicy(RequestModel):
    """Retention policy. A finished job is kept while `keep_days` or `keep_last` keeps it; without both, forever."""

    keep_days: float | None = Field(default=None, ge=0, le=36_500)
    """Days to keep a finished job."""
    keep_last: int | None = Field(default=None, ge=0, le=1_000_000)
    """Number of last finished jobs to keep for each owner, regardless of age."""
    workspace_days: float | None = Field(default=None, ge=0, le=36_500)
    """Days until a finished job's workspace (slices, features, checkpoints) is deleted; voice and log stay."""
    min_free_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """Free bytes below which workspaces of finished jobs are deleted, oldest first, then stage results; no voice."""


class Removal(SizedModel):
    """Item that retention deletes."""

    kind: Literal["job", "workspace", "cache"]
    id: str
    """Id of the job; for a cache, of its dataset."""
    name: str
    why: str


class RetentionPlan(ResponseModel):
    """Items that retention deletes."""

    removals: list[Removal]
    """Items that are deleted first, at most 1000."""
    num_removals: int = 0
    """Number of all; 0 from an older server, which lists all."""
    freed_bytes: int
    """Bytes that all of them free, as last measured."""


class RetentionPublic(ResponseModel):
    """Retention policy, and the items that it would delete now."""

    policy: RetentionPolicy
    plan: RetentionPlan


class WeightsFile(SizedModel):
    """Published file."""

    name: str
    sha256: str
    state: Literal["verified", "unverified", "damaged", "missing"]
    """unverified: present with the right size; its sha256 is checked by the first run that needs it."""


FetchState = Literal["waiting", "fetching", "failed", "fetched"]


class WeightsFetch(RequestModel):
    """Request to download weights."""

    file: str | None = Field(default=None, max_length=200)
    """Name of the only file to download; null: all files of the id."""
    mirror: str | None = Field(default=None, max_length=2000, pattern=r"^https?://[^\s]+$")
    """Address of a mirror of huggingface.co, such as `https://hf-mirror.com`; null: the server's own choice."""


class WeightsImport(RequestModel):
    """Request to take in a file that was uploaded."""

    upload_id: str = Field(min_length=1, max_length=64)
    """Id of the complete upload, which is deleted afterwards."""


class WeightsImported(ResponseModel):
    """Published file that was taken in."""

    files: list[str]
    """Its names, such as `hubert/pytorch_model.bin`."""


class MissingWeights(ResponseModel):
    """Published files of one id that a job needs and the server lacks."""

    id: str
    files: list[str]
    size_bytes: int
    downloaded_bytes: int
    fetch_state: FetchState | None
    """State of the newest download of these files; null without one."""
    fetch_error: str | None


class WeightsPublic(SizedModel):
    """Set of published weights."""

    id: str
    is_present: bool
    size_here: int = Field(json_schema_extra=DEPRECATED)
    """`size_here_bytes` under its old name."""
    fetch_state: FetchState | None
    """State of the requested download; null without one, or once all files are present."""
    fetch_error: str | None
    files: list[WeightsFile]

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def size_here_bytes(self) -> int:
        """Bytes on the server's machine, including an unfinished download."""
        return self.size_here
