"""Serialization of datasets, events and artifacts: from rows to wire shapes."""

from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from rvc_engine.content.names import programs_note
from rvc_train.schemas.datasets import DatasetPublic
from rvc_train.schemas.events import EventPublic
from rvc_train.schemas.results import CONTENT_NOTICE, ArtifactPublic
from server.database.result_tables import Artifact
from server.database.tables import Dataset, Event, Job


def content_notice(job: Job) -> str | None:
    """The notice for a voice that RVC and Applio load but do not convert with correctly; None for others."""
    return notice_of(job.config.get("content", "contentvec"))


def notice_of(encoder: str) -> str | None:
    """As `content_notice`, by the name of the content encoder."""
    note = programs_note(encoder)
    return None if note is None else CONTENT_NOTICE.format(encoder=encoder, note=note)


def dataset_public(dataset: Dataset) -> DatasetPublic:
    """A dataset's row in its public form."""
    return DatasetPublic.model_validate(dataset, from_attributes=True)


def event_public(event: Event, job_id: str, name: str) -> EventPublic:
    """An event's row in its public form, with its job's id and the name of its voice."""
    fields = event.model_dump(exclude={"job_number", "position"})
    return EventPublic(**fields, job_id=job_id, name=name)


def feed_event_public(row: sa.Row[Any]) -> EventPublic:
    """As `event_public`, from columns of the event and its job."""
    return EventPublic.model_validate(row, from_attributes=True)


def artifact_public(job: Job, artifact: Artifact) -> ArtifactPublic:
    """An artifact's row in its public form."""
    notice = content_notice(job) if artifact.kind in {"voice", "best"} else None
    return ArtifactPublic(
        id=artifact.id,
        kind=artifact.kind,
        name=artifact.name,
        size=artifact.size,
        sha256=artifact.sha256,
        created_at=artifact.created_at,
        url=f"/v1/jobs/{job.id}/artifacts/{quote(artifact.name, safe='')}",
        content_notice=notice,
    )
