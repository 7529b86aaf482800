"""Pollers share an answer until the database changes; nobody sees another's, and none is older than his request."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlmodel import Session

from rvc_engine.events import Warned
from server.api.jobs import jobs
from server.database.engine import create_engine
from server.jobs.service import JobService


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses whose answers were made, in order."""
    made: list[str] = []
    list_jobs, find_job = jobs.newest_jobs, jobs.find_job

    def listing(*arguments: Any) -> Any:
        made.append("list")
        return list_jobs(*arguments)

    def finding(session: Session, job_id: str) -> Any:
        made.append(job_id)
        return find_job(session, job_id)

    monkeypatch.setattr(jobs, "newest_jobs", listing)
    monkeypatch.setattr(jobs, "find_job", finding)
    return made


@pytest.mark.sqlite
def test_pollers_at_one_moment_share_an_answer_and_a_change_is_seen_by_the_next_one(
    guarded: Any, administrator: Any, counted: list[str]
) -> None:
    job = guarded.bench.job(name="first")
    administrator.get("/v1/jobs")
    assert counted == ["list"]
    counted.clear()
    before = administrator.get("/v1/jobs").json()
    first = [administrator.get("/v1/jobs").json() for _ in range(5)]
    assert first == [before] * 5
    assert counted.count("list") <= 3  # two more when this machine needed more than a second
    guarded.bench.job(name="second")
    assert administrator.get("/v1/jobs").json()["data"][0]["name"] == "second"
    assert administrator.get(f"/v1/jobs/{job.id}").json()["status"] == "queued"
    administrator.post(f"/v1/jobs/{job.id}/cancel").raise_for_status()
    assert administrator.get(f"/v1/jobs/{job.id}").json()["status"] == "cancelled"


def test_a_change_that_a_worker_makes_is_seen_by_the_next_request(guarded: Any, administrator: Any) -> None:
    worker_side = create_engine(guarded.context.settings.url)  # as a worker's process has one
    of_worker = JobService(worker_side)
    job = guarded.bench.job(priority=100)
    lease = of_worker.claim(guarded.bench.worker())
    assert lease is not None
    assert lease.job_id == job.id
    for number in range(10):
        before = administrator.get(f"/v1/jobs/{job.id}").json()["last_event_seq"]
        of_worker.record_events(lease, [Warned(message=f"warning {number}")])
        assert administrator.get(f"/v1/jobs/{job.id}").json()["last_event_seq"] == before + 1
    worker_side.dispose()


def test_no_owner_gets_the_answer_made_for_another_nor_one_without_the_scope(
    administrator: Any, guarded: Any, holder: Any
) -> None:
    anna, berta = holder("anna", "read"), holder("berta", "read")
    dataset = guarded.bench.dataset()
    job_id = guarded.context.jobs.submit(_create(dataset), owner="anna").job_id
    for _ in range(2):
        assert [job["id"] for job in anna.get("/v1/jobs").json()["data"]] == [job_id]
        assert berta.get("/v1/jobs").json()["data"] == []
        assert anna.get(f"/v1/jobs/{job_id}").status_code == 200
        assert berta.get(f"/v1/jobs/{job_id}").status_code == 404
        assert anna.get("/v1/jobs", headers={"Authorization": "Bearer nobody"}).status_code == 401


def test_a_revoked_token_opens_nothing_although_it_was_used_a_moment_ago(administrator: Any, guarded: Any) -> None:
    token = administrator.post("/v1/tokens", json={"owner": "anna", "scopes": ["read"]}).json()
    with guarded.client(Authorization=f"Bearer {token['secret']}") as http:
        assert [http.get("/v1/jobs").status_code for _ in range(3)] == [200, 200, 200]
        administrator.delete(f"/v1/tokens/{token['id']}").raise_for_status()
        assert http.get("/v1/jobs").status_code == 401


def test_a_list_has_a_tag_and_is_not_sent_again_while_it_is_the_same(administrator: Any, guarded: Any) -> None:
    first = administrator.get("/v1/jobs?limit=5")
    again = administrator.get("/v1/jobs?limit=5", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    guarded.bench.job(name="newer")
    newer = administrator.get("/v1/jobs?limit=5", headers={"If-None-Match": first.headers["etag"]})
    assert newer.status_code == 200
    assert newer.headers["etag"] != first.headers["etag"]


@pytest.mark.sqlite  # PostgreSQL has no counter of changes to read without a query
def test_requests_that_arrive_together_wait_for_one_answer_and_whoever_leaves_takes_it_from_nobody(
    guarded: Any, administrator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    release, calls = threading.Event(), []
    list_jobs = jobs.newest_jobs

    def slow(*filters: Any) -> Any:
        calls.append(filters)
        release.wait(30)
        return list_jobs(*filters)

    monkeypatch.setattr(jobs, "newest_jobs", slow)
    path = "/v1/jobs?search=nobody"

    def leaving() -> None:
        with guarded.client(Authorization=administrator.headers["Authorization"]) as http:
            http.get(path, timeout=0.5)

    with ThreadPoolExecutor(9) as pool:
        left = pool.submit(leaving)
        while not calls and not left.done():
            pass
        staying = [pool.submit(administrator.get, path) for _ in range(8)]
        assert isinstance(left.exception(20), httpx.ReadTimeout)
        release.set()
        assert [each.result(20).status_code for each in staying] == [200] * 8
    assert len(calls) < 9  # one for all; more after a second, or on PostgreSQL


def _create(dataset: str) -> Any:
    from rvc_train.schemas.jobs import JobCreate

    return JobCreate(name="anna", dataset_id=dataset)
