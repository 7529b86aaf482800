"""The queue for those who start workers for its jobs: which are due, and what each needs."""

import itertools
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_train.schemas.work.queue import WaitingJob
from server.database.tables import Job
from server.scheduling.queue import IS_QUEUED, Group, turns
from server.scheduling.resources import parse_needs


def waiting_jobs(session: Session, now: datetime, limit: int) -> list[WaitingJob]:
    """The first jobs that are due, in an order like that in which workers claim them: a job of each group in turn.

    It costs one search for each group among the first `limit`.
    """
    found: list[WaitingJob] = []
    for _, groups in itertools.groupby(turns(session, lambda needs: True, now), lambda group: group.priority):
        of_groups = [_due(session, group, now, limit) for group in itertools.islice(groups, limit)]
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*of_groups))
        found += [job for job in in_turn if job is not None]
        if len(found) >= limit:
            break
    return found[:limit]


def _due(session: Session, group: Group, now: datetime, limit: int) -> list[WaitingJob]:
    columns = (col(Job.id), col(Job.token), col(Job.claims), col(Job.priority))
    query = (
        sa.select(*columns)
        .where(
            IS_QUEUED,
            col(Job.needs) == group.needs,
            col(Job.priority) == group.priority,
            col(Job.owner) == group.owner,
            col(Job.number) >= group.first,
            col(Job.not_before) <= now,
        )
        .order_by(col(Job.number))
        .limit(limit)
    )
    needs = parse_needs(group.needs)
    return [
        WaitingJob(
            job_id=job_id,
            token=token,
            attempts=claims,
            priority=priority,
            gpus=needs.gpus,
            gpu_memory_bytes=needs.gpu_memory_bytes,
            labels=dict(needs.labels),
        )
        for job_id, token, claims, priority in session.execute(query)
    ]
