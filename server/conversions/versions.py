"""The job of a voice that a conversion uses."""

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.names.voices import check_voice_name
from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Job
from server.errors import NotFound, Refused


def wanted_version(
    session: Session,
    voice: str,
    job_id: str | None,
    owner: str,
    visible_owner: str | None,
    *,
    may_be_unfinished: bool = False,
) -> Job:
    """The job of a voice: the one of an id, or the current version; where there is none, the newest one, which has not
    succeeded, if `may_be_unfinished`.

    Of voices of several owners (`visible_owner` None: of any), the caller's own comes first. NotFound, Refused.
    """
    try:
        query = select(Job).where(Job.name == check_voice_name(voice))
    except ValueError as error:
        raise NotFound(f"there is no voice {voice!r}") from error
    if visible_owner is not None:
        query = query.where(Job.owner == visible_owner)
    if job_id is not None:
        job = session.exec(query.where(Job.id == job_id)).first()
        if job is None:
            raise Refused(f"there is no job {job_id} of a voice {voice!r}", "/job_id")
        return job
    newest = query.order_by(sa.case((col(Job.owner) == owner, 0), else_=1), col(Job.number).desc()).limit(1)
    job = session.exec(newest.where(Job.status == JobStatus.SUCCEEDED)).first()
    if job is None and may_be_unfinished:
        job = session.exec(newest).first()
    if job is None:
        raise NotFound(
            f"there is no finished voice {voice!r}; list jobs with their voices, or give a save of one that trains"
        )
    return job
