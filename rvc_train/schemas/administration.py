"""Schemas of retention and weights: the policy, published weights, base weights of one's own."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, computed_field, model_validator

from rvc_engine.names.base_weights import check_base_weights_name
from rvc_engine.weights.own import OwnFile
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


class WeightsSource(RequestModel):
    """Source of a file: exactly one of the two."""

    upload_id: str | None = Field(default=None, min_length=1, max_length=64)
    """Id of a complete upload, which is deleted once the file is taken in."""
    url: str | None = Field(default=None, min_length=8, max_length=2000, pattern="^https?://")
    """Address that the server downloads from: a public one, or one in a network that its administrator allows."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.upload_id is None) == (self.url is None):
            raise ValueError("give either upload_id or url")
        return self


class BaseWeightsCreate(RequestModel):
    """Request to take in base weights: a generator, discriminators, or both."""

    name: Annotated[
        str,
        AfterValidator(check_base_weights_name),
        Field(json_schema_extra={"pattern": "^[a-z0-9][a-z0-9._-]{0,63}$", "not": {"enum": ["auto", "none"]}}),
    ]
    """Name, which a job's `config.pretrained` takes; unique among the owner's."""
    generator: WeightsSource | None = None
    """A `G_` file, such as `f0G40k.pth`."""
    discriminator: WeightsSource | None = None
    """A `D_` file, such as `f0D40k.pth`."""

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.generator is None and self.discriminator is None:
            raise ValueError("give generator, discriminator or both")
        return self


class BaseWeightsKind(ResponseModel):
    """Kind of voice that a file fits."""

    version: str
    sample_rate: str | None
    """Null for discriminators, which fit every rate."""
    f0: bool | None
    """Whether the voice follows pitch; null for discriminators, which fit both."""
    width: int


class BaseWeightsFile(ResponseModel):
    """A file of base weights."""

    size_bytes: int
    sha256: str
    fits: BaseWeightsKind
    description: str
    """The same in words."""


class BaseWeightsPublic(ResponseModel):
    """Base weights of an owner."""

    id: str
    owner: str
    name: str
    size_bytes: int
    generator: BaseWeightsFile | None
    discriminator: BaseWeightsFile | None
    created_at: datetime


def file_public(file: OwnFile) -> BaseWeightsFile:
    """A file in its public form."""
    fits = BaseWeightsKind.model_validate(file.kind.model_dump())
    return BaseWeightsFile(size_bytes=file.size, sha256=file.sha256, fits=fits, description=str(file.kind))
