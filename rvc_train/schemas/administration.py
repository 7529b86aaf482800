"""Wire shapes of what a server's administrator decides: what is kept how long, which weights are there."""

from typing import Literal

from pydantic import Field

from rvc_train.schemas.base import RequestModel, ResponseModel


class RetentionPolicy(RequestModel):
    """What is kept how long. A finished job stays while any of the two rules keeps it; with neither, for ever."""

    keep_days: float | None = Field(default=None, ge=0, le=36_500)
    """A finished job is kept for so many days."""
    keep_last: int | None = Field(default=None, ge=0, le=1_000_000)
    """The last so many finished jobs of each owner are kept, however old."""
    workspace_days: float | None = Field(default=None, ge=0, le=36_500)
    """After so many days a finished job's workspace (slices, features, checkpoints) goes; voice and log stay."""
    min_free_bytes: int | None = Field(default=None, ge=0, le=2**60)
    """While less is free on the disk, workspaces of finished jobs go, oldest first, then stage results; no voice."""


class Removal(ResponseModel):
    """One thing that retention deletes."""

    kind: Literal["job", "workspace", "cache"]
    id: str
    """Of the job; for a cache, of its dataset."""
    name: str
    size: int
    """Bytes that become free."""
    why: str


class RetentionPlan(ResponseModel):
    """What retention deletes."""

    removals: list[Removal]
    freed_bytes: int


class RetentionPublic(ResponseModel):
    """A policy, and what it would delete now."""

    policy: RetentionPolicy
    plan: RetentionPlan


class WeightsFile(ResponseModel):
    """One published file."""

    name: str
    size: int
    sha256: str
    state: Literal["verified", "unverified", "damaged", "missing"]
    """unverified: here, of the right size; the first run that needs it takes its sha256."""


class WeightsPublic(ResponseModel):
    """Published weights that belong together."""

    id: str
    is_present: bool
    size: int
    """Bytes of all its files."""
    size_here: int
    """Bytes that are on this machine, those of an unfinished download too."""
    fetch_state: Literal["waiting", "fetching", "failed", "fetched"] | None
    """How the download that was asked for stands; None without one, or once all is here."""
    fetch_error: str | None
    files: list[WeightsFile]


class WeightsList(ResponseModel):
    """All weights that are known."""

    data: list[WeightsPublic]
