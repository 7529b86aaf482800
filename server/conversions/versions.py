"""The job of a voice that a conversion uses."""

from sqlmodel import Session, col, select

from server.database.tables import Job
from server.errors import NotFound, Refused
from server.job_store.versions import VoiceKey, current_of, is_of


def wanted_version(session: Session, voice: VoiceKey, job_id: str | None, *, may_be_unfinished: bool = False) -> Job:
    """The job of a voice: the one of an id, or of the current version; else, if `may_be_unfinished`, the newest one.

    NotFound, Refused.
    """
    if job_id is not None:
        job = session.exec(select(Job).where(*is_of(voice), Job.id == job_id)).first()
        if job is None:
            raise Refused(f"there is no job {job_id} of a voice {voice.name!r}", "/job_id")
        return job
    job = current_of(session, voice)
    if job is None and may_be_unfinished:
        job = session.exec(select(Job).where(*is_of(voice)).order_by(col(Job.number).desc()).limit(1)).first()
    if job is None:
        raise NotFound(f"there is no finished voice {voice.name!r}; list the voices, or give a save of one that trains")
    return job
