"""Changes of voices: notes, labels, the current version, deletion."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from rvc_train.schemas.jobs import MAX_LABELS, TERMINAL_STATUSES, JobStatus
from rvc_train.schemas.voices.voices import VoicePatch
from server.auth.audit import record
from server.database.engine import read_session, write_session
from server.database.result_tables import Voice
from server.database.tables import Job
from server.errors import Conflict, PreconditionFailed, Refused
from server.job_store.versions import VoiceKey, is_of, lock_voice
from server.jobs.service import JobService
from server.storage.local import Storage
from server.voices.queries import update_tag, voice_public


class VoiceService:
    """Voices of one database."""

    def __init__(self, job_service: JobService, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._jobs, self._storage, self._clock = job_service, storage, clock
        self._engine = job_service.engine

    def update(self, key: VoiceKey, patch: VoicePatch, if_match: Collection[str] | None = None) -> None:
        """Change what people set. NotFound, Refused.

        `if_match`: the voice's `update_tag` must be one of these; PreconditionFailed otherwise.
        """
        with write_session(self._engine) as session:
            lock_voice(session, key, patch.current)
            public = voice_public(session, key)
            if if_match is not None and update_tag(public) not in if_match:
                raise PreconditionFailed(
                    "the voice's notes, labels or current version have changed since you read them; read it again"
                )
            row = session.get(Voice, key)
            now = self._clock()
            row = row or Voice(owner=key.owner, name=key.name, created_at=now, updated_at=now)
            changes = {
                name: value for name, value in _changes(session, key, row, patch).items() if value != getattr(row, name)
            }
            if changes:
                record(session, "voice.edited", key.name, owner=key.owner, **changes)
                for name, value in changes.items():
                    setattr(row, name, value)
                row.updated_at = now
                session.add(row)

    def delete(self, key: VoiceKey) -> None:
        """Delete a voice: its jobs with their files, its links, what people set. NotFound.

        Conflict while one of its jobs has not ended; nothing is deleted then.
        """
        with read_session(self._engine) as session:
            voice_public(session, key)
            jobs = session.exec(select(Job).where(*is_of(key)).order_by(col(Job.number).desc())).all()
        for job in jobs:
            if job.status not in TERMINAL_STATUSES:
                raise Conflict(
                    f"the voice's job {job.id} is {job.status}; cancel it, or wait for it, before you delete the voice"
                )
        for job in jobs:
            converted = self._jobs.delete(job.id)
            self._storage.delete_job(job.id, converted)


def _changes(session: Session, key: VoiceKey, row: Voice, patch: VoicePatch) -> dict[str, Any]:
    """The columns that a patch sets. Refused."""
    changes: dict[str, Any] = {}
    if patch.notes is not None:
        changes["notes"] = patch.notes
    if patch.labels is not None:
        labels = {name: value for name, value in (row.labels | patch.labels).items() if value is not None}
        if len(labels) > MAX_LABELS:
            raise Refused(f"the voice would have {len(labels)} labels; at most {MAX_LABELS} are allowed", "/labels")
        changes["labels"] = labels
    if "current" in patch.model_fields_set:
        if patch.current is not None:
            require_version(session, key, patch.current, "/current")
        changes["current_job_id"] = patch.current
    return changes


def require_version(session: Session, key: VoiceKey, job_id: str, pointer: str) -> Job:
    """A version of a voice that has succeeded. Refused, at `pointer`."""
    job = session.exec(select(Job).where(*is_of(key), Job.id == job_id)).first()
    if job is None:
        raise Refused(f"the voice {key.name!r} has no version {job_id}", pointer)
    if job.status != JobStatus.SUCCEEDED:
        raise Refused(f"the job {job_id} is {job.status}; only a version that has succeeded can be used", pointer)
    return job
