"""Schemas of voices and of their versions, which are jobs."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from rvc_engine.config import VoiceName
from rvc_train.schemas.base import RequestModel, ResponseModel
from rvc_train.schemas.jobs import MAX_LABELS, JobStatus, LabelKey, LabelValue
from rvc_train.schemas.results import ArtifactPublic, CheckpointPublic

MAX_NOTES = 10_000
Notes = Annotated[str, Field(max_length=MAX_NOTES, pattern=r"^[^\x00]*$")]


class ImportedFrom(ResponseModel):
    """Origin of a version that was taken in from a bundle, as the bundle states it."""

    job_id: str
    """Id of the job on the server where it was trained."""
    version: int
    """Its number there."""
    software: str
    """Version of rvc-train that made the bundle."""
    created_at: datetime
    finished_at: datetime | None
    imported_at: datetime
    bundle_sha256: str
    start_from: dict[str, Any] | None = None
    """The save of an earlier job that its training began with, on that server."""


class VoiceVersionPublic(ResponseModel):
    """Version of a voice: a job."""

    version: int
    """1 for the first job of the name, and so on. It stays when another version is deleted."""
    job_id: str
    status: JobStatus
    is_current: bool
    progress: float
    eta_seconds: float | None
    dataset_id: str
    epoch: int | None
    total_epochs: int | None
    """Null for `total_epochs=auto`."""
    best_save: CheckpointPublic | None
    """The best of its evaluated saves."""
    files: list[ArtifactPublic]
    disk_bytes: int
    """Bytes of its files on disk, as last measured."""
    created_at: datetime
    finished_at: datetime | None
    imported: ImportedFrom | None
    """Origin of a version that was trained on another server; null for others."""


class VoicePublic(ResponseModel):
    """Voice: all jobs of an owner with one name."""

    owner: str
    name: str
    url: str
    """Path of the voice on this server."""
    notes: str
    labels: dict[str, str]
    num_versions: int
    next_version: int
    """Number that the next job of this name gets."""
    newest: VoiceVersionPublic
    current: VoiceVersionPublic | None
    """The version to use; null while none has succeeded."""
    current_reason: Literal["set", "best", "newest"] | None
    """set: chosen by hand. best: it has the best evaluation of the versions on the same recordings at the same sample
    rate as the newest. newest: none compares with the newest one."""
    disk_bytes: int
    """Bytes of the files of all versions, as last measured."""
    updated_at: datetime
    """Time of the last change of notes, labels or the current version, or of the newest version's start or end."""


class VoiceDetail(VoicePublic):
    """Voice, with its versions."""

    versions: list[VoiceVersionPublic]
    """The newest versions, at most 20; `GET .../versions` lists all."""


class VoicePatch(RequestModel):
    """Changes of a voice; omitted fields stay."""

    notes: Notes | None = None
    """Text about the voice; an empty one deletes it."""
    labels: dict[LabelKey, LabelValue | None] | None = Field(default=None, max_length=2 * MAX_LABELS)
    """Labels to set; null removes one."""
    current: str | None = Field(default=None, min_length=1, max_length=64)
    """Id of the job that is the current version; null: chosen by evaluation again."""


class VoiceImport(RequestModel):
    """Request to take in a voice from a bundle that was uploaded."""

    upload_id: str = Field(min_length=1, max_length=64)
    """Id of the complete upload, which is deleted afterwards."""
    name: VoiceName | None = None
    """Name of the voice here; null: the one in the bundle."""
