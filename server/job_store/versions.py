"""Versions of voices: jobs of one owner and name, their numbers, and the current one.

A version's number is its place among the voice's jobs in the order of their submission. Deleted jobs keep their places
as long as the voice has others, so numbers never change.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from rvc_train.schemas.jobs import JobStatus
from server.database.engine import advisory_lock
from server.database.result_tables import DeletedVersion, Evaluation, Voice, VoiceLink
from server.database.tables import Job

BEST_BY = "eval/mel"
"""Score by which versions are compared: the lowest is the best."""


class VoiceKey(NamedTuple):
    """Owner and name."""

    owner: str
    name: str


class Current(NamedTuple):
    """The version of a voice to use."""

    number: int
    """Number of its job."""
    reason: Literal["set", "best", "newest"]


def key_of(job: Job) -> VoiceKey:
    """The voice of a job."""
    return VoiceKey(job.owner, job.name)


def is_of(key: VoiceKey) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions for the jobs of a voice."""
    return (col(Job.owner) == key.owner, col(Job.name) == key.name)


def numbers_of(session: Session, jobs: Collection[int]) -> dict[int, int]:
    """The version numbers of jobs, by the jobs' own numbers."""
    older = aliased(Job)
    before = sa.select(sa.func.count()).where(
        col(older.owner) == col(Job.owner), col(older.name) == col(Job.name), col(older.number) < col(Job.number)
    )
    deleted = sa.select(sa.func.count()).where(
        col(DeletedVersion.owner) == col(Job.owner),
        col(DeletedVersion.name) == col(Job.name),
        col(DeletedVersion.job_number) < col(Job.number),
    )
    number = 1 + before.correlate(Job).scalar_subquery() + deleted.correlate(Job).scalar_subquery()
    rows = session.connection().execute(sa.select(col(Job.number), number).where(col(Job.number).in_(jobs)))
    return {row[0]: row[1] for row in rows}


def currents_of(session: Session, keys: Collection[VoiceKey]) -> dict[VoiceKey, Current]:
    """The current version of each voice that has one."""
    if not keys:
        return {}
    newest = _newest_succeeded(session, keys)
    found = {key: Current(number, "newest") for key, number in newest.items()}
    for key, number in _best(session, newest.values()).items():
        found[key] = Current(number, "best")
    chosen = sa.select(col(Voice.owner), col(Voice.name), col(Job.number)).join(
        Job, col(Job.id) == col(Voice.current_job_id)
    )
    rows = session.connection().execute(chosen.where(sa.tuple_(col(Voice.owner), col(Voice.name)).in_(keys)))
    return found | {VoiceKey(owner, name): Current(number or 0, "set") for owner, name, number in rows}


def current_of(session: Session, key: VoiceKey) -> Job | None:
    """The job of a voice's current version."""
    found = currents_of(session, [key]).get(key)
    return None if found is None else session.get(Job, found.number)


def _newest_succeeded(session: Session, keys: Collection[VoiceKey]) -> dict[VoiceKey, int]:
    names = (col(Job.owner), col(Job.name))
    query = sa.select(*names, sa.func.max(col(Job.number))).where(
        sa.tuple_(*names).in_(keys), col(Job.status) == JobStatus.SUCCEEDED
    )
    rows = session.connection().execute(query.group_by(*names))
    return {VoiceKey(owner, name): number or 0 for owner, name, number in rows}


def _best(session: Session, newest: Collection[int]) -> Mapping[VoiceKey, int]:
    """The best of each voice's versions that compare with the newest one; left out where no other does.

    Scores compare on the same clips: of the same dataset, at the same sample rate.
    """
    reference, own = aliased(Job), aliased(Evaluation)
    score = col(Evaluation.values)[BEST_BY].as_float()
    names = (col(Job.owner), col(Job.name))
    place = sa.func.row_number().over(partition_by=names, order_by=(score, col(Job.number).desc()))
    compared = (
        sa.select(*names, col(Job.number), place.label("place"), sa.func.count().over(partition_by=names).label("num"))
        .select_from(reference)
        .join(own, (col(own.job_number) == col(reference.number)) & col(own.is_best))
        .join(
            Job,
            (col(Job.owner) == col(reference.owner))
            & (col(Job.name) == col(reference.name))
            & (col(Job.dataset_id) == col(reference.dataset_id))
            & (col(Job.config)["sample_rate"].as_string() == col(reference.config)["sample_rate"].as_string()),
        )
        .join(Evaluation, (col(Evaluation.job_number) == col(Job.number)) & col(Evaluation.is_best))
        .where(
            col(reference.number).in_(newest),
            col(Job.status) == JobStatus.SUCCEEDED,
            col(Evaluation.held_out) == col(own.held_out),
            score.is_not(None),
        )
        .subquery()
    )
    query = sa.select(compared.c.owner, compared.c.name, compared.c.number)
    rows = session.connection().execute(query.where(compared.c.place == 1, compared.c.num > 1))
    return {VoiceKey(owner, name): number for owner, name, number in rows}


def lock_voice(session: Session, key: VoiceKey, job_id: str | None = None) -> None:
    """Block other changes of a voice until the transaction ends; before that, the deletion of a job that it will name.

    A deletion locks its job first too, so that neither waits for the other.
    """
    if job_id is not None:
        session.exec(select(Job.number).where(Job.id == job_id).with_for_update(read=True, key_share=True))
    advisory_lock(session, f"voice-{key.owner}-{key.name}")


def forget_version(session: Session, job: Job) -> None:
    """Keep the place of a job that is about to be deleted; with its last job, a voice ends, and its links with it."""
    key = key_of(job)
    lock_voice(session, key)  # or of two last jobs, deleted at once, each would leave the voice to the other
    others = select(Job.number).where(*is_of(key), Job.number != job.number)
    if session.exec(others.limit(1)).first() is not None:
        insert: Any = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        row = {"owner": job.owner, "name": job.name, "job_number": job.number}
        session.connection().execute(insert(DeletedVersion).values(**row).on_conflict_do_nothing())
        return
    for table in (Voice, VoiceLink, DeletedVersion):
        session.execute(sa.delete(table).where(col(table.owner) == key.owner, col(table.name) == key.name))


def newest_of_voices(
    session: Session, conditions: Sequence[sa.ColumnElement[bool]], after: int | None, limit: int
) -> Sequence[Job]:
    """The newest job of each voice, newest first. Conditions are on `Job` and `Voice`."""
    newer = aliased(Job)
    is_newest = ~sa.exists().where(
        col(newer.owner) == col(Job.owner), col(newer.name) == col(Job.name), col(newer.number) > col(Job.number)
    )
    query = select(Job).where(is_newest, *conditions)
    if after is not None:
        query = query.where(col(Job.number) < after)
    return session.exec(query.order_by(col(Job.number).desc()).limit(limit)).all()
