"""Quotas: jobs, bytes, GPU hours; held at every way in, measured as things are stored."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlmodel import col

from server.admin.retention import Retention
from server.database.engine import write_session
from server.database.tables import Attempt
from server.storage.sizes import JobSizes, share_of

SUBMIT = "submit"
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}


def upload(client: httpx.Client, content: bytes, name: str = "mine") -> dict[str, Any]:
    answer = client.put(f"/v1/datasets/{name}/content", content=b"RIFF" + content)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def submit(client: httpx.Client, dataset: dict[str, Any], **more: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"], **more})


def stored(client: httpx.Client) -> int:
    return int(client.get("/v1/me").json()["usage"]["bytes"])


def test_a_quota_of_jobs_is_held_and_says_so(holder: Callable[..., httpx.Client], administrator: httpx.Client) -> None:
    client = holder("greta", SUBMIT)
    dataset = upload(client, b"three")
    assert administrator.put("/v1/owners/greta/quota", json={"max_jobs": 1}).json()["quota"]["max_jobs"] == 1
    first = submit(client, dataset)
    assert first.status_code == 202
    second = submit(client, dataset)
    assert (second.status_code, second.json()["code"]) == (429, "quota_exceeded")
    assert "the limit is 1" in second.json()["detail"]
    assert not second.json()["retryable"]
    assert "retry-after" not in second.headers  # so that no client asks again by itself
    assert client.get("/v1/me").json()["usage"]["jobs"] == 1
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert submit(client, dataset).status_code == 202
    administrator.delete("/v1/owners/greta/quota")
    assert submit(client, dataset).status_code == 202


def test_a_quota_of_bytes_is_held_for_every_way_in(
    holder: Callable[..., httpx.Client], administrator: httpx.Client
) -> None:
    client = holder("hans", SUBMIT)
    administrator.put("/v1/owners/hans/quota", json={"max_bytes": 1000})
    upload(client, b"x" * 700)
    put = client.put("/v1/datasets/more/content", content=b"RIFF" + b"y" * 700)
    assert (put.status_code, put.json()["code"]) == (507, "quota_exceeded")
    begun = client.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "700"})
    assert begun.status_code == 507
    stored = client.get("/v1/me").json()["usage"]["bytes"]
    assert 704 <= stored < 900  # with the list of its recordings
    assert len(client.get("/v1/datasets").json()["data"]) == 1


def test_gpu_hours_count_after_the_job_is_deleted(
    holder: Callable[..., httpx.Client], administrator: httpx.Client, guarded: Any, eventually: Callable[..., None]
) -> None:
    client = holder("ida", SUBMIT)
    dataset = upload(client, b"four")
    job_id = submit(client, dataset, priority=100).json()["id"]
    eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued")  # the dataset is ready
    lease = guarded.bench.claim()
    assert lease.job_id == job_id
    now = datetime.now(UTC)
    start = max(now - timedelta(hours=2), now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    with write_session(guarded.context.engine) as session:
        session.execute(sa.update(Attempt).where(col(Attempt.job_number) == lease.job_number).values(started_at=start))
    hours = (now - start).total_seconds() / 3600
    assert client.get("/v1/me").json()["usage"]["gpu_hours_this_month"] == pytest.approx(hours, abs=0.01)
    client.post(f"/v1/jobs/{job_id}/cancel")
    guarded.bench.jobs.release(lease, "asked to")
    assert client.get("/v1/me").json()["usage"]["gpu_hours_this_month"] == pytest.approx(hours, abs=0.01)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert client.get("/v1/me").json()["usage"]["gpu_hours_this_month"] == pytest.approx(hours, abs=0.01)
    administrator.put("/v1/owners/ida/quota", json={"max_gpu_hours": hours / 2})
    refused = submit(client, dataset)
    assert (refused.status_code, "GPU hours" in refused.json()["detail"]) == (429, hours > 0)


def test_an_upload_in_pieces_does_not_count_twice_when_it_becomes_a_dataset(
    holder: Callable[..., httpx.Client], administrator: httpx.Client
) -> None:
    client = holder("jutta", SUBMIT)
    administrator.put("/v1/owners/jutta/quota", json={"max_bytes": 1000})
    begun = client.post("/v1/uploads", headers=TUS | {"Upload-Length": "704"}).headers["location"]
    assert stored(client) == 704
    assert client.patch(begun, headers=PIECE, content=b"RIFF" + b"z" * 700).status_code == 204
    made = client.post("/v1/datasets", json={"name": "mine", "upload_id": begun.rpartition("/")[2]})
    assert made.status_code == 201, made.text
    assert 704 <= stored(client) < 900


def test_what_a_zip_unpacks_to_is_what_counts_and_nothing_of_it_stays_when_it_is_too_much(
    holder: Callable[..., httpx.Client], administrator: httpx.Client, guarded: Any, zipped: Callable[..., bytes]
) -> None:
    client = holder("kurt", SUBMIT)
    administrator.put("/v1/owners/kurt/quota", json={"max_bytes": 20_000})
    packed = zipped({f"{i}.wav": b"RIFF" + bytes(10_000) for i in range(3)})
    assert len(packed) < 5_000
    before = set(guarded.context.storage.root.glob("datasets/*"))
    refused = client.put("/v1/datasets/mine/content", content=packed)
    assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
    assert "more would exceed that" in refused.json()["detail"]
    assert set(guarded.context.storage.root.glob("datasets/*")) == before
    assert stored(client) == 0
    administrator.put("/v1/owners/kurt/quota", json={"max_bytes": 50_000})
    assert client.put("/v1/datasets/mine/content", content=packed).status_code == 201
    assert stored(client) > 30_000


def test_workspaces_and_checkpoints_count_and_an_owner_who_is_full_starts_no_job(
    holder: Callable[..., httpx.Client], administrator: httpx.Client, guarded: Any
) -> None:
    context = guarded.context
    client = holder("lars", SUBMIT)
    dataset = upload(client, b"seven")
    job_id = submit(client, dataset).json()["id"]
    before = stored(client)
    sizes = JobSizes(context.engine, context.storage, lambda: datetime.now(UTC))
    workspace = context.storage.workspace(job_id)
    workspace.mkdir(parents=True)
    (workspace / "G_1.pth").write_bytes(bytes(50_000))
    sizes.invalidate(job_id)  # as a claim does
    sizes.measure()
    assert stored(client) - before == 50_000
    administrator.put("/v1/owners/lars/quota", json={"max_bytes": 40_000})
    refused = submit(client, dataset)
    assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
    assert "delete jobs or datasets" in refused.json()["detail"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    sizes.measure()
    context.storage.delete_workspace(job_id)
    sizes.measure()
    assert stored(client) - before == 50_000  # an ended job is measured again only when invalidated
    sizes.invalidate(job_id)
    sizes.measure()
    assert stored(client) == before
    assert submit(client, dataset).status_code == 202


def test_retention_has_a_job_measured_again(live: Any, http: httpx.Client) -> None:
    context = live.context
    job = live.bench.job(name="old")
    http.post(f"/v1/jobs/{job.id}/cancel")
    workspace = context.storage.workspace(job.id)
    workspace.mkdir(parents=True)
    (workspace / "clip").write_bytes(bytes(30_000))
    before = http.get("/v1/me").json()["usage"]["bytes"]
    sizes = JobSizes(context.engine, context.storage, lambda: datetime.now(UTC))
    sizes.invalidate(job.id)
    sizes.measure()
    assert http.get("/v1/me").json()["usage"]["bytes"] == before + 30_000
    later = Retention(context.jobs, context.storage, lambda: datetime.now(UTC) + timedelta(days=9))
    http.put("/v1/retention", json={"workspace_days": 1})
    assert [removal.kind for removal in later.apply().removals] == ["workspace"]
    sizes.measure()
    assert http.get("/v1/me").json()["usage"]["bytes"] == before
    http.put("/v1/retention", json={})


def test_a_file_that_two_folders_share_counts_half_for_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "one").write_bytes(bytes(1000))
    (tmp_path / "a" / "two").write_bytes(bytes(100))
    (tmp_path / "b" / "one").hardlink_to(tmp_path / "a" / "one")
    assert (share_of(tmp_path / "a"), share_of(tmp_path / "b"), share_of(tmp_path)) == (600, 500, 1100)
    assert share_of(tmp_path, {tmp_path / "a" / "two"}) == 1000


def test_the_settings_quota_holds_for_whoever_has_none_of_their_own(tmp_path: Path, serve: Callable[..., Any]) -> None:
    with serve(tmp_path, quota_jobs=1, quota_bytes=10**6, quota_gpu_hours=5) as server, server.client() as http:
        assert http.get("/v1/me").json()["quota"] == {"max_jobs": 1, "max_bytes": 10**6, "max_gpu_hours": 5.0}
        dataset = upload(http, b"eight")
        assert [submit(http, dataset).status_code for _ in range(2)] == [202, 429]
        estimate = http.post("/v1/jobs:estimate", json={"dataset_id": dataset["id"]}).json()
        assert any("the limit is 1" in warning for warning in estimate["warnings"])
        http.put("/v1/owners/local/quota", json={"max_jobs": 2})
        assert submit(http, dataset).status_code == 202


def test_of_many_submissions_at_once_no_more_than_the_quota_are_taken(
    holder: Callable[..., httpx.Client], administrator: httpx.Client
) -> None:
    client = holder("mia", SUBMIT)
    dataset = upload(client, b"nine")
    administrator.put("/v1/owners/mia/quota", json={"max_jobs": 3})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(client, dataset).status_code, range(12)))
    assert sorted(answers) == [202] * 3 + [429] * 9
