"""Queries of voices and their versions: from rows to wire shapes, with a fixed number of statements for each page."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.voices.voices import ImportedFrom, VoiceDetail, VoicePublic, VoiceVersionPublic
from server.auth.principal import current_principal
from server.database.engine import read_session
from server.database.result_tables import (
    Artifact,
    DeletedVersion,
    Evaluation,
    ImportedVersion,
    StoredFileRow,
    Voice,
)
from server.database.tables import Job
from server.errors import NotFound
from server.job_store.serializers import artifact_public
from server.job_store.versions import (
    Current,
    VoiceKey,
    currents_of,
    is_of,
    key_of,
    newest_of_voices,
    numbers_of,
)
from server.results.evaluations import checkpoint_public

NUM_VERSIONS_SHOWN = 20


@dataclass(frozen=True)
class VoiceFilter:
    """Which voices a list has; None and empty: all."""

    owner: str | None = None
    name: str | None = None
    search: str | None = None
    """Part of the name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Voices with all of them."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on a voice's newest job."""
        conditions = [
            col(column) == value
            for column, value in ((Job.owner, self.owner), (Job.name, self.name))
            if value is not None
        ]
        if self.search is not None:
            conditions.append(col(Job.name).icontains(self.search, autoescape=True))
        if self.labels:
            is_labelled = [col(Voice.labels)[key].as_string() == value for key, value in self.labels.items()]
            of_job = (col(Voice.owner) == col(Job.owner), col(Voice.name) == col(Job.name))
            conditions.append(sa.exists().where(*of_job, *is_labelled))
        return conditions


class VoiceQueries:
    """Queries of one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(self, wanted: VoiceFilter, after: int | None, limit: int) -> tuple[list[VoicePublic], int | None]:
        """Voices by their newest jobs, newest first; and the next page's `after`, None on the last page."""
        with read_session(self._engine) as session:
            jobs = newest_of_voices(session, wanted.conditions(), after, limit + 1)
            shown = jobs[:limit]
            return _voices(session, shown), shown[-1].number if len(jobs) > limit else None

    def get(self, key: VoiceKey) -> VoiceDetail:
        """One voice, with its newest versions. NotFound."""
        with read_session(self._engine) as session:
            voice = voice_public(session, key)
            versions = _newest_versions(session, key, None, NUM_VERSIONS_SHOWN)
            return VoiceDetail(**voice.model_dump(), versions=list(versions.values()))

    def versions(self, key: VoiceKey, after: int | None, limit: int) -> tuple[list[VoiceVersionPublic], int | None]:
        """Versions of a voice, newest first; and the next page's `after`, None on the last page. NotFound."""
        with read_session(self._engine) as session:
            voice_public(session, key)
            versions = _newest_versions(session, key, after, limit + 1)
            numbers = list(versions)
            return list(versions.values())[:limit], numbers[limit - 1] if len(numbers) > limit else None


def _newest_versions(
    session: Session, key: VoiceKey, after: int | None, limit: int
) -> dict[int | None, VoiceVersionPublic]:
    """Versions of jobs older than number `after`, newest first."""
    query = select(Job).where(*is_of(key)).order_by(col(Job.number).desc()).limit(limit)
    if after is not None:
        query = query.where(col(Job.number) < after)
    return versions_public(session, session.exec(query).all(), currents_of(session, [key]))


def voice_public(session: Session, key: VoiceKey) -> VoicePublic:
    """One voice. NotFound."""
    jobs = newest_of_voices(session, list(is_of(key)), None, 1)
    if not jobs:
        raise NotFound(
            f"there is no voice {key.name!r}; a voice is made by a job of its name, or taken in from a bundle"
        )
    return _voices(session, jobs)[0]


def voice_url(key: VoiceKey, part: str = "") -> str:
    """Path of a voice, or of a part of it, for the present caller: an administrator names another owner."""
    principal = current_principal.get()
    owner = "" if principal is None or principal.owner == key.owner else f"?{urlencode({'owner': key.owner})}"
    return f"/v1/voices/{quote(key.name, safe='')}{part}{owner}"


def update_tag(public: VoicePublic) -> str:
    """Hash of what people set."""
    chosen = public.current.job_id if public.current is not None and public.current_reason == "set" else None
    text = json.dumps([public.notes, public.labels, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _voices(session: Session, newest: Sequence[Job]) -> list[VoicePublic]:
    """The voices of these jobs, each its voice's newest."""
    keys = [key_of(job) for job in newest]
    currents = currents_of(session, keys)
    shown = {job.number: job for job in newest}
    missing = {current.number for current in currents.values()} - shown.keys()
    if missing:
        shown |= {job.number: job for job in session.exec(select(Job).where(col(Job.number).in_(missing))).all()}
    versions = versions_public(session, list(shown.values()), currents)
    num_jobs, num_deleted, sizes = _totals(session, keys)
    rows = {VoiceKey(row.owner, row.name): row for row in session.exec(_rows(keys)).all()}
    made = []
    for job, key in zip(newest, keys, strict=True):
        row, current = rows.get(key), currents.get(key)
        changed: list[datetime | None] = [job.created_at, job.finished_at, None if row is None else row.updated_at]
        made.append(
            VoicePublic(
                owner=key.owner,
                name=key.name,
                url=voice_url(key),
                notes="" if row is None else row.notes,
                labels={} if row is None else row.labels,
                num_versions=num_jobs[key],
                next_version=num_jobs[key] + num_deleted[key] + 1,
                newest=versions[job.number],
                current=None if current is None else versions[current.number],
                current_reason=None if current is None else current.reason,
                disk_bytes=sizes[key],
                updated_at=max(time for time in changed if time is not None),
            )
        )
    return made


def _rows(keys: Collection[VoiceKey]) -> Any:
    return select(Voice).where(sa.tuple_(col(Voice.owner), col(Voice.name)).in_(keys))


def _totals(session: Session, keys: Collection[VoiceKey]) -> tuple[dict[VoiceKey, int], ...]:
    """Number of jobs, of deleted jobs, and bytes of each voice."""
    bytes_of = sa.func.coalesce(sa.func.sum(col(StoredFileRow.bytes)), 0)
    of_job = col(StoredFileRow.job_number) == col(Job.number)
    queries: list[tuple[Any, Any]] = [
        (Job, sa.select(col(Job.owner), col(Job.name), sa.func.count())),
        (DeletedVersion, sa.select(col(DeletedVersion.owner), col(DeletedVersion.name), sa.func.count())),
        (Job, sa.select(col(Job.owner), col(Job.name), bytes_of).join(StoredFileRow, of_job)),
    ]
    totals = []
    for table, query in queries:
        names = (col(table.owner), col(table.name))
        rows = session.connection().execute(query.where(sa.tuple_(*names).in_(keys)).group_by(*names))
        found: dict[VoiceKey, int] = defaultdict(int)
        found.update({VoiceKey(owner, name): int(number) for owner, name, number in rows})
        totals.append(found)
    return tuple(totals)


def versions_public(
    session: Session, jobs: Sequence[Job], currents: Mapping[VoiceKey, Current]
) -> dict[int | None, VoiceVersionPublic]:
    """Versions by the numbers of their jobs, in the order of these."""
    numbers = [job.number for job in jobs if job.number is not None]
    versions = numbers_of(session, numbers)
    best = select(Evaluation).where(col(Evaluation.job_number).in_(numbers), col(Evaluation.is_best))
    saves = {row.job_number: row for row in session.exec(best).all()}
    files: dict[int, list[Artifact]] = defaultdict(list)
    artifacts = select(Artifact).where(col(Artifact.job_number).in_(numbers)).order_by(Artifact.name)
    for artifact in session.exec(artifacts).all():
        files[artifact.job_number].append(artifact)
    of_jobs = col(StoredFileRow.job_number).in_(numbers)
    total = sa.select(col(StoredFileRow.job_number), sa.func.sum(col(StoredFileRow.bytes))).where(of_jobs)
    rows = session.connection().execute(total.group_by(col(StoredFileRow.job_number)))
    sizes = {number: int(size) for number, size in rows}
    imports = select(ImportedVersion).where(col(ImportedVersion.job_number).in_(numbers))
    imported = {row.job_number: row for row in session.exec(imports).all()}
    found: dict[int | None, VoiceVersionPublic] = {}
    for job in jobs:
        number = job.number or 0
        current = currents.get(key_of(job))
        save, origin = saves.get(number), imported.get(number)
        found[job.number] = VoiceVersionPublic(
            version=versions[number],
            job_id=job.id,
            status=JobStatus(job.status),
            is_current=current is not None and current.number == number,
            progress=job.progress,
            eta_seconds=job.eta_seconds,
            dataset_id=job.dataset_id,
            epoch=job.epoch,
            total_epochs=None if job.config.get("total_epochs") == "auto" else job.total_epochs,
            best_save=None if save is None else checkpoint_public(save),
            files=[artifact_public(job, artifact) for artifact in files[number]],
            disk_bytes=sizes.get(number, 0),
            created_at=job.created_at,
            finished_at=job.finished_at,
            imported=None if origin is None else _origin_public(origin),
        )
    return found


def _origin_public(row: ImportedVersion) -> ImportedFrom:
    return ImportedFrom(**row.origin, imported_at=row.imported_at, bundle_sha256=row.bundle_sha256)
