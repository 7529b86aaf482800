"""Workers on three hosts that share nothing with the server: each job ends once, whatever is killed meanwhile."""

import os
from collections import Counter
from itertools import chain
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.jobs import JobStatus
from server.database.engine import read_session
from server.database.tables import Attempt, Job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
NUM_JOBS = int(os.environ.get("RVC_TRAIN_TEST_HOSTS_JOBS", "15"))
OWNERS = ("ann", "ben", "cat")


def test_jobs_of_three_owners_end_once_though_host_server_and_database_are_lost(site: Any, database: Any) -> None:
    each = NUM_JOBS // len(OWNERS)
    script = ["train", 16, 0.15, 2]
    jobs = [site.submit(script, owner=owner) for owner in OWNERS for _ in range(each)]  # all of one before the next
    for host in site.hosts:
        site.start_worker(host)

    def num_ended() -> int:
        return list(site.statuses(jobs).values()).count(JobStatus.SUCCEEDED)

    site.wait_until(lambda: num_ended() >= NUM_JOBS // 3, "a third of the jobs", 300)
    begun = beginnings(site, jobs)[: NUM_JOBS // 3]
    shares = [Counter(begun[:number]) for number in range(1, len(begun) + 1)]
    assert all(max(share.values()) - min(share[owner] for owner in OWNERS) <= len(site.hosts) for share in shares), (
        begun
    )

    lost = site.hosts[2]
    site.wait_until(lambda: runs_on(site, jobs, lost.name), "a job with a checkpoint on the host that is lost", 120)
    lost.lose()
    site.wait_until(lambda: num_ended() >= NUM_JOBS // 2, "half of the jobs", 300)
    site.kill_server()
    site.start_server()
    site.wait_until(lambda: num_ended() >= NUM_JOBS * 2 // 3, "two thirds of the jobs", 300)
    database.restart()
    site.wait_for(jobs, JobStatus.SUCCEEDED, 400)

    for job in jobs:
        attempts = site.attempts(job)
        assert [token for token, *_ in attempts] == list(range(1, len(attempts) + 1))
        assert [outcome for _, outcome, *_ in attempts].count(JobStatus.SUCCEEDED) == 1
        assert all(name == lost.name for _, _, name, _ in attempts[:-1]), attempts  # nothing else costs an attempt
        assert site.shop.event_types(job).count("succeeded") == 1
        assert len(site.shop.artifacts(job)) == 2
    again = [job for job in jobs if len(site.attempts(job)) > 1]
    assert again
    for job in again:
        events = site.shop.event_types(job)
        begun = [number for number, event in enumerate(events) if event == "started"]
        if "checkpoint_saved" in events[: begun[-1]]:
            assert "going on from step" in site.shop.log(job)
    assert {path.name for path in site.folder.iterdir()} > {host.name for host in site.hosts}


def beginnings(site: Any, jobs: list[str]) -> list[str]:
    """The owners of the jobs in the order in which workers took them."""
    query = (
        sa.select(col(Job.owner))
        .join(Attempt, col(Job.number) == col(Attempt.job_number))
        .where(col(Job.id).in_(jobs))
        .order_by(col(Attempt.started_at))
    )
    with read_session(site.shop.engine) as session:
        return list(chain.from_iterable(session.execute(query)))


def runs_on(site: Any, jobs: list[str], name: str) -> bool:
    running = [job for job, status in site.statuses(jobs).items() if status == JobStatus.RUNNING]
    on_it = [job for job in running if (attempts := site.attempts(job)) and attempts[-1][2] == name]
    return any("checkpoint_saved" in site.shop.event_types(job) for job in on_it)
