"""No lock is held while a connection is asked for, and no connection while a lock is waited for, in any route."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.routing import iter_route_contexts

from rvc_engine.events import Log
from rvc_train.schemas.work.protocol import PROTOCOL
from server.admin.weights import WeightsFetcher
from server.database.clock import utc_now
from server.database.dataset_tables import BaseWeights
from server.database.engine import write_session
from server.database.tables import Conversion, new_id
from tests.server.watched_locks import watched_locks

ORDER = ("OPTIONS", "HEAD", "GET", "PUT", "POST", "PATCH", "DELETE")
TUS = {"Tus-Resumable": "1.0.0"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/session": {"json": {"token": "nobody's-token-at-all"}},
    "POST /v1/datasets": {"json": {"name": "again", "sha256": "0" * 64}},
    "PUT /v1/datasets/{name}/content": {"content": b"RIFF more"},
    "PUT /v1/datasets/{dataset_id}/consent": {
        "json": {"speaker": "Anna", "statement": "For the guide.", "date": "2026-11-28"}
    },
    "POST /v1/uploads": {"headers": TUS | {"Upload-Length": "10"}},
    "HEAD /v1/uploads/{upload_id}": {"headers": TUS},
    "DELETE /v1/uploads/{upload_id}": {"headers": TUS},
    "PATCH /v1/uploads/{upload_id}": {
        "headers": TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"},
        "content": b"RIFF",
    },
    "POST /v1/voices/{name:path}/conversions": {"json": {"upload_id": "upl_" + "0" * 32}},
    "PUT /v1/voices/{name:path}/conversions/content": {"content": b"RIFF more"},
    "POST /v1/voices": {"json": {"upload_id": "upl_none"}},
    "PATCH /v1/voices/{name:voice}": {"json": {"notes": "x"}},
    "PATCH /v1/jobs/{job_id}": {"json": {"labels": {"a": "b"}}},
    "POST /v1/jobs/{job_id}/retry": {"json": {}, "headers": {"Idempotency-Key": "again"}},
    "POST /v1/webhooks": {"json": {"url": "http://127.0.0.1:9/hook"}},
    "PATCH /v1/webhooks/{webhook_id}": {"json": {"is_enabled": False}},
    "PUT /v1/retention": {"json": {}},
    "PUT /v1/owners/{owner}/quota": {"json": {"max_jobs": 1000}},
    "POST /v1/worker/workers/{worker_id}/claims": {"json": {}},
    "POST /v1/worker/workers/{worker_id}/conversion-claims": {"json": {}},
    "POST /v1/worker/workers/{worker_id}/heartbeat": {"json": {}},
    "POST /v1/worker/statuses": {"json": {"job_ids": []}},
    "POST /v1/worker/leases/{lease_id}/log": {"json": {"offset": 0, "text": "a line"}},
    "POST /v1/worker/leases/{lease_id}/events": {"json": {"number": 1, "events": [{"type": "log", "message": "x"}]}},
    "POST /v1/worker/leases/{lease_id}/finish": {"json": {"outcome": "success"}},
    "POST /v1/tokens": {"json": {"owner": "anna", "scopes": ["read"]}},
}
FIRST_TOKEN = "the-first-token-of-all"


def base_weights(server: Any) -> str:
    row = BaseWeights(id=new_id("bw"), owner="local", name="mine", size=1, files={}, created_at=utc_now())
    with write_session(server.context.engine) as session:
        session.add(row)
        return row.id


def conversion(server: Any, job_id: str) -> str:
    fields = {"voice": "ended", "job_id": job_id, "options": {}, "max_seconds": 600, "size": 1}
    file = {"name": "a.wav", "output": "a.wav", "path": "conversions/x", "bytes": 1}
    events = [{"type": "created", "message": "submitted", "created_at": utc_now().isoformat()}]
    row = Conversion(id=new_id("cnv"), owner="local", inputs=[file], events=events, created_at=utc_now(), **fields)
    with write_session(server.context.engine) as session:
        session.add(row)
        return row.id


def prepared(server: Any, http: httpx.Client) -> dict[str, str]:
    """An id for each part of a path, of rows of every kind: a running job, two that wait, one that has ended."""
    bench = server.bench
    dataset = bench.dataset()
    ended = bench.job(dataset_id=dataset, name="anna.pth")
    lease = bench.claim()
    server.context.jobs.record_events(lease, [Log(message="a line")])
    log = server.context.storage.job_log(ended.id)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("a line\n")
    bench.publish(lease)
    bench.jobs.succeed(lease)
    for _ in range(3):
        bench.job(dataset_id=dataset)
    worker = bench.claim().worker_id
    link = http.post("/v1/voices/anna.pth/links").raise_for_status().json()
    hook = http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"}).raise_for_status().json()["id"]
    http.post(f"/v1/webhooks/{hook}/test").raise_for_status()
    token = http.post("/v1/tokens", json={"owner": "anna", "scopes": ["read"]}).raise_for_status().json()["id"]
    upload = http.post("/v1/uploads", headers=TUS | {"Upload-Length": "10"}).raise_for_status().headers["location"]
    return {
        "job_id": ended.id,
        "dataset_id": dataset,
        "worker_id": worker,
        "webhook_id": hook,
        "delivery_id": http.get(f"/v1/webhooks/{hook}/deliveries").json()["data"][0]["id"],
        "token_id": token,
        "upload_id": upload.rpartition("/")[2],
        "link_id": link["id"],
        "secret": link["secret"],
        "base_weights_id": base_weights(server),
        "conversion_id": conversion(server, ended.id),
        "weights_id": http.get("/v1/weights").json()["data"][0]["id"],
        "owner": "anna",
        "name": "anna.pth",
        "number": "1",
        "code": "not_found",
        "lease_id": f"{ended.id}.1",
        "sha256": "0" * 64,
    }


def test_over_every_route_no_lock_is_held_while_a_connection_is_asked_for_nor_the_other_way(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightsFetcher, "_fetch", lambda *_: None)  # downloads nothing
    limits = dict.fromkeys(("requests_per_minute", "writes_per_minute", "refusals_per_minute"))
    more = {"token": FIRST_TOKEN, "outbound_networks": "127.0.0.1", "reaper_seconds": 0.05, "checkpoint_seconds": 0.05}
    with watched_locks("server") as watch, serve(tmp_path, **limits, **more) as server:
        watch.watch(server.context.engine)
        with server.client(Authorization=f"Bearer {FIRST_TOKEN}") as http:
            ids = prepared(server, http)
            key_of = server.context.remote_workers.key_of
            keys = {"Worker-Key": key_of(ids["worker_id"]), "Lease-Key": key_of(ids["lease_id"])}
            http.headers.update({"Worker-Protocol": str(PROTOCOL)} | keys)
            BODIES["POST /v1/jobs"] = {
                "json": {"name": "anna", "dataset_id": ids["dataset_id"], "webhook": {"url": "http://127.0.0.1:9/"}},
                "headers": {"Idempotency-Key": "once"},
            }
            BODIES["POST /v1/jobs:estimate"] = {"json": {"dataset_id": ids["dataset_id"]}}
            routes = sorted(
                (ORDER.index(method), context.path)
                for context in iter_route_contexts(server.server.config.app.routes)
                if context.path != "/static"
                for method in context.methods or ()
            )
            assert len(routes) > 60

            def request(route: tuple[int, str]) -> tuple[str, int]:
                name = f"{ORDER[route[0]]} {route[1]}"
                answer = http.request(
                    ORDER[route[0]],
                    route[1].replace(":path", "").replace(":voice", "").format(**ids),
                    **BODIES.get(name, {}),
                )
                return name, answer.status_code

            with ThreadPoolExecutor(4) as pool:  # reading ones beside each other
                statuses = list(pool.map(request, [route for route in routes if ORDER[route[0]] == "GET"]))
            statuses += [request(route) for route in routes if ORDER[route[0]] != "GET"]
    assert not watch.violations, watch.violations[0]
    assert not [each for each in statuses if each[1] >= 500]
    assert sum(status < 300 for _, status in statuses) > 45, statuses
    assert watch.num_locks > 2
    assert watch.num_connections > 100


@pytest.mark.parametrize(
    "code",
    [
        "with lock:\n    engine.connect().close()",
        "with engine.connect():\n    lock.acquire()\n    lock.release()",
        "with condition:\n    engine.connect().close()",
    ],
)
def test_the_watch_finds_a_lock_and_a_connection_that_one_thread_holds(engine: sa.Engine, code: str) -> None:
    with watched_locks("server") as watch:
        watch.watch(engine)
        ours: dict[str, Any] = {"__name__": "server.made_up", "engine": engine, "threading": threading}
        exec("lock, condition = threading.Lock(), threading.Condition()\n" + code, ours)  # noqa: S102 - as a module of that name
    assert len(watch.violations) == 1
    assert watch.violations[0].count("connect") >= 1


def test_the_watch_is_silent_about_one_after_the_other(engine: sa.Engine) -> None:
    with watched_locks("server") as watch:
        watch.watch(engine)
        ours: dict[str, Any] = {"__name__": "server.made_up", "engine": engine, "threading": threading}
        exec("lock = threading.Lock()\nwith lock: pass\nengine.connect().close()\nwith lock: pass", ours)  # noqa: S102
    assert watch.violations == []
    assert (watch.num_locks, watch.num_connections) == (2, 1)
