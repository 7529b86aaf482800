"""The queue as a server answers for it: what is due, in the order of the queue, without a word of its owners."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.protocol import PROTOCOL, PROTOCOL_HEADER
from server.database.clock import utc_now
from server.database.engine import write_session
from server.database.tables import Job
from tests.worker.gateway.conftest import serving, work_token
from worker.gateway.connection import Connection
from worker.ray.server import ServerQueue


@pytest.fixture
def queue(shop: Any) -> Iterator[ServerQueue]:
    with serving(shop) as server:
        connection = Connection(server.url, work_token(server))
        yield ServerQueue(connection)
        connection.close()


def submit(shop: Any, owner: str, **fields: object) -> str:
    job_id: str = shop.submit([], **fields)
    with write_session(shop.engine) as session:
        session.execute(sa.update(Job).where(col(Job.id) == job_id).values(owner=owner))
    return job_id


def test_jobs_come_by_priority_and_then_in_turns_among_owners(shop: Any, queue: ServerQueue) -> None:
    of_ann = [submit(shop, "ann") for _ in range(3)]
    of_ben = [submit(shop, "ben") for _ in range(2)]
    first = submit(shop, "ann", priority=5)
    waits = submit(shop, "cat")
    with write_session(shop.engine) as session:
        later = utc_now() + timedelta(minutes=1)
        session.execute(sa.update(Job).where(col(Job.id) == waits).values(not_before=later))
    found = [job.job_id for job in queue.waiting()]
    assert found == [first, of_ann[0], of_ben[0], of_ann[1], of_ben[1], of_ann[2]]


def test_a_job_comes_with_what_it_needs_and_the_number_of_its_last_lease(shop: Any, queue: ServerQueue) -> None:
    resources = {"gpus": 2, "gpu_memory_bytes": 10**9, "labels": {"kind": "large"}}
    job_id = shop.submit([], resources=resources, priority=3)
    (job,) = queue.waiting()
    assert job.model_dump() == {"job_id": job_id, "token": 0, "attempts": 0, "priority": 3} | resources
    other = shop.submit([])
    lease = shop.claim()
    assert (lease.job_id, [each.job_id for each in queue.waiting()]) == (other, [job_id])
    assert queue.statuses([job_id, other, "job_none"]) == {job_id: JobStatus.QUEUED, other: JobStatus.RUNNING}
    shop.jobs.requeue_lost(shop.jobs.active_leases()[0])
    assert {(each.job_id, each.token, each.attempts) for each in queue.waiting()} == {(job_id, 0, 0), (other, 1, 1)}


def test_the_answer_names_no_owner_and_no_voice(shop: Any) -> None:
    submit(shop, "ann-the-owner", labels={"project": "secret"})
    with serving(shop) as server:
        headers = {"Authorization": f"Bearer {work_token(server)}", PROTOCOL_HEADER: str(PROTOCOL)}
        answer = httpx.get(f"{server.url}/v1/worker/queue", params={"limit": 1}, headers=headers, timeout=30)
    text = json.dumps(answer.json())
    assert len(answer.json()["jobs"]) == 1
    assert not [word for word in ("ann", "secret", "dataset") if word in text]
