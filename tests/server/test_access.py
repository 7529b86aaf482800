"""Tokens, sessions, quotas, the trail, rate limits; and owners who do not see each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access_schemas import Scope
from server.rate_limits import RateLimit

FIRST = "the-first-token-of-all"
READ, SUBMIT, ADMIN = "read", "submit", "admin"


def upload(client: httpx.Client, content: bytes, name: str = "mine") -> dict[str, Any]:
    answer = client.put(f"/v1/datasets/{name}/content", content=b"RIFF" + content)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def submit(client: httpx.Client, dataset: dict[str, Any], **more: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"], **more})


def test_owners_do_not_see_each_other(holder: Callable[..., httpx.Client], keeper: httpx.Client) -> None:
    anna, bob = holder("anna", SUBMIT), holder("bob", SUBMIT)
    dataset = upload(anna, b"one")
    job = submit(anna, dataset).json()
    hook = anna.post("/v1/webhooks", json={"url": "https://93.184.216.34/"}).json()
    tus = {"Tus-Resumable": "1.0.0"}
    begun = anna.post("/v1/uploads", headers=tus | {"Upload-Length": "5"}).headers["location"]
    for path in (
        f"/v1/jobs/{job['id']}",
        f"/v1/jobs/{job['id']}/events",
        f"/v1/jobs/{job['id']}/logs",
        f"/v1/jobs/{job['id']}/artifacts.zip",
        f"/v1/datasets/{dataset['id']}",
        f"/v1/webhooks/{hook['id']}/secret",
    ):
        theirs, nobodys = bob.get(path), bob.get(path.replace(job["id"], "job_0").replace(dataset["id"], "ds_0"))
        assert theirs.status_code == 404, path
        assert theirs.json()["detail"].startswith("there is no "), path
        assert nobodys.status_code == 404 or "webhooks" in path
        assert anna.get(path).status_code != 404 or path.endswith(".zip")
        assert keeper.get(path).status_code != 404 or path.endswith(".zip")
    assert bob.head(begun, headers=tus).status_code == 404
    assert bob.post(f"/v1/jobs/{job['id']}/cancel").status_code == 404
    assert bob.delete(f"/v1/datasets/{dataset['id']}").status_code == 404
    for path in ("/v1/jobs", "/v1/datasets", "/v1/webhooks"):
        assert bob.get(path).json()["data"] == [], path
        assert len(anna.get(path).json()["data"]) == 1, path
    refused = submit(bob, dataset)
    assert (refused.status_code, "there is no dataset" in refused.json()["detail"]) == (422, True)
    assert submit(bob, {"id": "ds_0"}).json()["detail"].replace("ds_0", dataset["id"]) == refused.json()["detail"]
    upload_id = begun.rpartition("/")[2]
    assert bob.post("/v1/datasets", json={"name": "x", "upload_id": upload_id}).status_code == 404
    assert bob.post("/v1/datasets", json={"name": "x", "sha256": dataset["sha256"]}).status_code == 404
    assert upload(bob, b"one")["id"] != dataset["id"]
    assert job["id"] in {each["id"] for each in keeper.get("/v1/jobs").json()["data"]}
    queue = bob.get("/v1/queue").json()
    assert job["id"] not in str(queue)


def test_the_same_idempotency_key_of_two_owners_makes_two_jobs(holder: Callable[..., httpx.Client]) -> None:
    ids = set()
    for owner in ("carl", "dora"):
        client = holder(owner, SUBMIT)
        wish = {"name": "anna", "dataset_id": upload(client, b"two")["id"]}
        answers = [client.post("/v1/jobs", json=wish, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
        ids.add(answers[0].json()["id"])
    assert len(ids) == 2


def test_a_token_is_told_once_and_kept_as_a_hash(keeper: httpx.Client, guarded: Any) -> None:
    made = keeper.post("/v1/tokens", json={"owner": "erik", "name": "laptop"}).json()
    listed = next(each for each in keeper.get("/v1/tokens").json()["data"] if each["id"] == made["id"])
    assert made["secret"].startswith(listed["begins"])
    assert "secret" not in listed
    assert "sha256" not in listed
    database = guarded.services.storage.root
    stored = b"".join(path.read_bytes() for path in database.glob("rvc-train.db*"))
    assert made["secret"].encode() not in stored
    assert FIRST.encode() not in stored


def test_a_revoked_or_expired_token_opens_nothing(keeper: httpx.Client, guarded: Any) -> None:
    made = keeper.post("/v1/tokens", json={"owner": "frida"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    with guarded.client(**headers) as http:
        assert http.get("/v1/me").json()["scopes"] == ["submit"]
        assert keeper.delete(f"/v1/tokens/{made['id']}").status_code == 204
        assert http.get("/v1/me").status_code == 401
    short = keeper.post("/v1/tokens", json={"owner": "frida", "expires_in_days": 1e-9}).json()
    with guarded.client(Authorization=f"Bearer {short['secret']}") as http:
        assert http.get("/v1/me").status_code == 401
    assert keeper.delete("/v1/tokens/tok_none").status_code == 404


def test_a_quota_of_jobs_is_held_and_says_so(holder: Callable[..., httpx.Client], keeper: httpx.Client) -> None:
    client = holder("greta", SUBMIT)
    dataset = upload(client, b"three")
    assert keeper.put("/v1/owners/greta/quota", json={"max_jobs": 1}).json()["quota"]["max_jobs"] == 1
    first = submit(client, dataset)
    assert first.status_code == 202
    second = submit(client, dataset)
    assert (second.status_code, second.json()["code"]) == (429, "quota_exceeded")
    assert "may have 1" in second.json()["detail"]
    assert client.get("/v1/me").json()["usage"]["jobs"] == 1
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert submit(client, dataset).status_code == 202
    keeper.delete("/v1/owners/greta/quota")
    assert submit(client, dataset).status_code == 202


def test_a_quota_of_bytes_is_held_for_every_way_in(holder: Callable[..., httpx.Client], keeper: httpx.Client) -> None:
    client = holder("hans", SUBMIT)
    keeper.put("/v1/owners/hans/quota", json={"max_bytes": 1000})
    upload(client, b"x" * 700)
    put = client.put("/v1/datasets/more/content", content=b"RIFF" + b"y" * 700)
    assert (put.status_code, put.json()["code"]) == (507, "quota_exceeded")
    begun = client.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "700"})
    assert begun.status_code == 507
    stored = client.get("/v1/me").json()["usage"]["bytes"]
    assert 704 <= stored < 900  # with the list of its recordings
    assert len(client.get("/v1/datasets").json()["data"]) == 1


def test_gpu_hours_count_after_the_job_is_deleted(
    holder: Callable[..., httpx.Client], keeper: httpx.Client, guarded: Any
) -> None:
    from datetime import UTC, datetime, timedelta

    import sqlalchemy as sa
    from sqlmodel import col

    from server.database import write_session
    from server.tables import Attempt, Job

    client = holder("ida", SUBMIT)
    dataset = upload(client, b"four")
    job_id = submit(client, dataset).json()["id"]
    now = datetime.now(UTC)
    worker_id = guarded.bench.worker()
    start = max(now - timedelta(hours=2), now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    with write_session(guarded.services.engine) as session:
        number = session.execute(sa.select(col(Job.number)).where(col(Job.id) == job_id)).scalar_one()
        row = {"job_number": number, "attempt": 1, "token": 1, "worker_id": worker_id}
        session.execute(sa.insert(Attempt), [row | {"started_at": start, "ended_at": now}])
    hours = (now - start).total_seconds() / 3600
    assert client.get("/v1/me").json()["usage"]["gpu_hours_this_month"] == pytest.approx(hours, abs=0.01)
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get("/v1/me").json()["usage"]["gpu_hours_this_month"] == pytest.approx(hours, abs=0.01)
    keeper.put("/v1/owners/ida/quota", json={"max_gpu_hours": hours / 2})
    refused = submit(client, dataset)
    assert (refused.status_code, "GPU hours" in refused.json()["detail"]) == (429, hours > 0)


def test_the_trail_tells_who_did_what(holder: Callable[..., httpx.Client], keeper: httpx.Client) -> None:
    client = holder("jana", SUBMIT)
    dataset = upload(client, b"five")
    job = submit(client, dataset).json()
    client.post(f"/v1/jobs/{job['id']}/cancel", headers={"X-Request-ID": "the-cancel"})
    client.delete(f"/v1/jobs/{job['id']}")
    client.delete(f"/v1/datasets/{dataset['id']}")
    trail = keeper.get("/v1/audit", params={"actor": "jana"}).json()["data"]
    assert [each["action"] for each in trail] == [
        "dataset.deleted",
        "job.deleted",
        "job.cancelled",
        "job.submitted",
        "dataset.admitted",
    ]
    assert all(each["token_id"].startswith("tok_") and each["address"] == "127.0.0.1" for each in trail)
    assert trail[2]["request_id"] == "the-cancel"
    mine = keeper.get("/v1/audit", params={"action": "token.created", "limit": 1}).json()
    assert mine["data"][0]["actor"] == "local"
    after = keeper.get("/v1/audit", params={"actor": "jana", "limit": 2}).json()
    rest = keeper.get("/v1/audit", params={"actor": "jana", "after": after["next_cursor"]}).json()
    assert [each["number"] for each in after["data"] + rest["data"]] == [each["number"] for each in trail]


def test_what_was_refused_is_not_in_the_trail_as_done(
    holder: Callable[..., httpx.Client], keeper: httpx.Client
) -> None:
    client = holder("karl", SUBMIT)
    job = submit(client, upload(client, b"six")).json()
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 409
    actions = [each["action"] for each in keeper.get("/v1/audit", params={"actor": "karl"}).json()["data"]]
    assert actions == ["job.submitted", "dataset.admitted"]


def test_a_browser_signs_in_by_a_cookie_that_other_sites_cannot_use(guarded: Any, keeper: httpx.Client) -> None:
    made = keeper.post("/v1/tokens", json={"owner": "lena"}).json()
    with guarded.client() as http:
        assert http.post("/v1/session", json={"token": "wrong"}).status_code == 401
        answer = http.post("/v1/session", json={"token": made["secret"]})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
        assert made["secret"].lower() not in cookie
        assert http.get("/v1/me").json()["owner"] == "lena"
        own, other = {"Origin": guarded.url}, {"Origin": "https://evil.example"}
        assert http.put("/v1/datasets/a/content", content=b"RIFF", headers=other).status_code == 403
        assert http.put("/v1/datasets/a/content", content=b"RIFF").status_code == 403
        assert http.put("/v1/datasets/a/content", content=b"RIFF", headers=own).status_code == 201
        stolen = http.cookies.get("rvc_session")
        assert http.delete("/v1/session", headers=own).status_code == 204
        http.cookies.set("rvc_session", stolen or "")
        assert http.get("/v1/me").status_code == 401


def test_revoking_a_token_ends_its_sessions(guarded: Any, keeper: httpx.Client) -> None:
    made = keeper.post("/v1/tokens", json={"owner": "mona"}).json()
    with guarded.client() as http:
        http.post("/v1/session", json={"token": made["secret"]})
        assert http.get("/v1/me").status_code == 200
        keeper.delete(f"/v1/tokens/{made['id']}")
        assert http.get("/v1/me").status_code == 401


def test_whoever_asks_too_often_is_told_when_to_come_again(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST, requests_per_minute=30, refusals_per_minute=3) as server:
        with server.client(Authorization=f"Bearer {FIRST}") as http:
            answers = [http.get("/v1/me") for _ in range(32)]
            assert [answer.status_code for answer in answers[:30]] == [200] * 30
            assert (answers[31].status_code, answers[31].json()["code"]) == (429, "too_many_requests")
            assert 1 <= int(answers[31].headers["retry-after"]) <= 60
        with server.client(Authorization="Bearer wrong") as http:
            assert [http.get("/v1/me").status_code for _ in range(5)] == [401, 401, 401, 429, 429]


def test_a_bucket_fills_with_time_and_no_further() -> None:
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.take("a") for _ in range(60)] == [0] * 60
    assert limit.take("a") == pytest.approx(1)
    assert limit.take("b") == 0
    now[0] = 2
    assert [limit.take("a") for _ in range(2)] == [0, 0]
    assert limit.take("a") > 0
    now[0] = 10_000
    assert [limit.take("a") for _ in range(60)] == [0] * 60
    assert limit.take("a") > 0


def test_a_server_without_a_token_knows_tokens_all_the_same(live: Any) -> None:
    with live.client() as http:
        assert http.get("/v1/me").json()["owner"] == "local"
        made = http.post("/v1/tokens", json={"owner": "nina", "scopes": ["read"]}).json()
        with live.client(Authorization=f"Bearer {made['secret']}") as nina:
            assert nina.get("/v1/me").json()["owner"] == "nina"
            assert nina.put("/v1/datasets/a/content", content=b"RIFF").status_code == 403
        with live.client(Authorization="Bearer wrong") as other:
            assert other.get("/v1/me").status_code == 401


@pytest.mark.parametrize(
    "wish", [{"owner": "Anna"}, {"owner": "a b"}, {"owner": "a", "scopes": []}, {"owner": "a", "scopes": ["root"]}]
)
def test_a_token_that_cannot_be_is_refused(keeper: httpx.Client, wish: dict[str, Any]) -> None:
    assert keeper.post("/v1/tokens", json=wish).status_code == 422


def test_scopes_are_few() -> None:
    assert {str(scope) for scope in Scope} == {READ, SUBMIT, ADMIN}
