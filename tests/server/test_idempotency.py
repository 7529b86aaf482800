"""Idempotency keys: every POST that makes or changes something is carried out once, and secrets are never stored."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rvc_train.schemas.jobs import JobCreate
from rvc_train.schemas.webhooks import WebhookCreate
from server.database.clock import utc_now
from server.database.tables import IdempotencyKey, Upload, Webhook
from server.job_store.idempotency import IdempotentRequest
from server.jobs.submission import request_fingerprint
from server.middleware.idempotency import WITH_SECRET, WITHOUT_KEY

ADDRESS = "http://93.184.216.34/"


def keys(live: Any) -> list[IdempotencyKey]:
    with live.context.engine.connect() as connection:
        return list(connection.execute(sa.select(IdempotencyKey)).mappings())


def count(live: Any, table: Any) -> int:
    with live.context.engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)))


SECRETS = {"WebhookSecret", "TokenMade", "SignInCode", "VoiceLinkCreated"}
"""Schemas of answers with a secret."""


def test_every_post_takes_a_key_and_those_with_a_secret_are_known(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, item in document["paths"].items():
        if "post" not in item:
            continue
        names = {parameter["name"].lower() for parameter in item["post"].get("parameters", [])}
        assert ("idempotency-key" in names) is not bool(WITHOUT_KEY.match(path)), path
        answers = [str(response.get("content", "")) for response in item["post"]["responses"].values()]
        has_secret = any(f"schemas/{name}'" in each for each in answers for name in SECRETS)
        assert has_secret is bool(WITH_SECRET.match(path)), path
    with_secret = {
        name
        for name, schema in document["components"]["schemas"].items()
        if "secret" in schema.get("required", ()) or name == "SignInCode"
    }
    assert with_secret == SECRETS


def test_a_repeated_request_gets_the_first_answer_and_is_carried_out_once(live: Any, http: httpx.Client) -> None:
    hook = live.context.webhooks.create("local", WebhookCreate(url=ADDRESS)).id
    job = live.bench.job()
    dataset = http.put("/v1/datasets/mine/content", content=b"RIFFone").json()
    num_uploads = count(live, Upload.__table__)
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}
    for path, body, headers in (
        (f"/v1/webhooks/{hook}/test", None, {}),
        (f"/v1/jobs/{job.id}/pause", None, {}),
        (f"/v1/jobs/{job.id}/resume", None, {}),
        ("/v1/datasets", {"name": "again", "sha256": dataset["sha256"]}, {}),
        ("/v1/retention/run?dry_run=true", None, {}),
        ("/v1/uploads", None, tus),
    ):
        headers |= {"Idempotency-Key": f"once {path}"}
        first, second = (http.post(path, json=body, headers=headers) for _ in range(2))
        assert first.status_code < 300, (path, first.text)
        assert (second.status_code, second.content) == (first.status_code, first.content), path
        assert second.headers.get("location") == first.headers.get("location"), path
        assert (first.headers.get("idempotency-replayed"), second.headers["idempotency-replayed"]) == (None, "true")
    assert len(http.get(f"/v1/webhooks/{hook}/deliveries").json()["data"]) == 1
    assert count(live, Upload.__table__) == num_uploads + 1
    assert http.get(f"/v1/jobs/{job.id}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [
        ("/v1/webhooks", {"url": ADDRESS}, Webhook),
        ("/v1/tokens", {"owner": "anna"}, None),
        ("/v1/session/code", None, None),
    ],
)
def test_an_answer_with_a_secret_is_not_stored_and_the_request_not_repeated(
    live: Any, http: httpx.Client, path: str, body: Any, table: Any
) -> None:
    before = 0 if table is None else count(live, table)
    headers = {"Idempotency-Key": f"secret {path}"}
    first, second = (http.post(path, json=body, headers=headers) for _ in range(2))
    assert first.is_success, first.text
    assert (second.status_code, second.json()["code"]) == (409, "already_done")
    assert second.headers.get("location") == first.headers.get("location")
    secret = first.json().get("secret") or first.json()["code"]
    assert secret not in str(keys(live))
    assert table is None or count(live, table) == before + 1


def test_a_key_stands_for_one_request_whatever_the_order_of_its_fields(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "ordered"}
    body = {"name": "ordered", "sha256": http.put("/v1/datasets/a/content", content=b"RIFFtwo").json()["sha256"]}
    first = http.post("/v1/datasets", json=body, headers=headers)
    again = http.post("/v1/datasets", json=dict(reversed(body.items())), headers=headers)
    assert (first.is_success, again.content) == (True, first.content)
    for path, changed in (("/v1/datasets", body | {"name": "other"}), ("/v1/webhooks", body), ("/v1/jobs", JOB)):
        other = http.post(path, json=changed, headers=headers)
        assert (other.status_code, other.json()["errors"][0]["header"]) == (422, "Idempotency-Key"), path


JOB = {"name": "anna", "dataset_id": "ds_none"}


def test_a_refused_request_leaves_its_key_free(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "free"}
    assert http.post("/v1/webhooks", json={"url": "nothing"}, headers=headers).status_code == 422
    assert http.post("/v1/webhooks", json={"url": ADDRESS}, headers=headers).status_code == 201
    assert http.post("/v1/tokens", json={}, headers={"Idempotency-Key": "x" * 256}).status_code == 422
    assert http.post("/v1/tokens", json="x" * 2**20, headers={"Idempotency-Key": "large"}).status_code == 413


@pytest.mark.parametrize(("minutes", "code"), [(0, "still_running"), (10, "already_done")])
def test_a_request_that_a_stopped_server_left_is_not_carried_out_again(
    live: Any, http: httpx.Client, minutes: int, code: str
) -> None:
    headers = {"Idempotency-Key": f"left {minutes}"}
    assert http.post("/v1/webhooks", json={"url": ADDRESS}, headers=headers).status_code == 201
    at = utc_now() - timedelta(minutes=minutes)
    is_this = IdempotencyKey.key == headers["Idempotency-Key"]
    with live.context.engine.begin() as connection:
        connection.execute(sa.update(IdempotencyKey).where(is_this).values(answer=None, created_at=at))
    again = http.post("/v1/webhooks", json={"url": ADDRESS}, headers=headers)
    assert (again.status_code, again.json()["code"], again.json()["retryable"]) == (409, code, minutes == 0)


def test_a_key_of_a_deleted_job_is_free_again(live: Any, http: httpx.Client) -> None:
    request, headers = {"name": "anna", "dataset_id": live.bench.dataset()}, {"Idempotency-Key": "of a deleted job"}
    first = http.post("/v1/jobs", json=request, headers=headers).json()["id"]
    http.post(f"/v1/jobs/{first}/cancel")
    assert http.delete(f"/v1/jobs/{first}").status_code == 204
    second = http.post("/v1/jobs", json=request, headers=headers)
    assert (second.status_code, second.headers.get("idempotency-replayed")) == (202, None)
    assert http.get(second.headers["location"]).json()["id"] == second.json()["id"] != first
    http.post(f"/v1/jobs/{second.json()['id']}/cancel")


def test_a_submission_is_repeated_without_a_look_at_its_webhooks_address(
    live: Any, http: httpx.Client, finished: Callable[..., str]
) -> None:
    body = {"name": "anna", "dataset_id": live.bench.dataset(), "webhook": {"url": "http://nowhere.invalid/"}}
    request = JobCreate.model_validate(body)
    key = IdempotentRequest("local", "unresolvable", request_fingerprint(request))
    first = live.context.jobs.submit(request, idempotent=key)
    again = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key.key})
    assert (again.status_code, again.json()["id"]) == (202, first.job_id)
    assert http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "new"}).status_code == 422
    http.post(f"/v1/jobs/{first.job_id}/cancel")


def test_a_large_body_where_files_are_sent_is_not_read_for_its_key(live: Any, http: httpx.Client) -> None:
    """Bodies there have no limit but the disk's, and these are no places to send one."""
    address = ("127.0.0.1", int(live.url.rpartition(":")[2]))
    for path in ("datasets/a/content", "voices/a/conversions/content", "uploads/upl_1"):
        with socket.create_connection(address, 10) as caller:
            caller.sendall(
                f"POST /v1/{path} HTTP/1.1\r\nHost: h\r\nAuthorization: {http.headers['Authorization']}\r\n"
                f"Idempotency-Key: {path}\r\nTus-Resumable: 1.0.0\r\nContent-Length: {1 << 40}\r\n\r\n".encode()
                + bytes(1 << 20)
            )
            assert b" 405 " in caller.recv(65536).splitlines()[0], path


def test_a_body_nested_deeply_is_refused_as_without_a_key(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "deep"}
    answer = http.post("/v1/webhooks", content="[" * 500_000, headers=headers)
    assert (answer.status_code, "valid JSON" in answer.json()["detail"]) == (422, True)
