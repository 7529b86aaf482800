"""Statuses: 200 for what is done, 201 with Location for what was made, 202 for what goes on."""

from typing import Any

import httpx


def test_every_201_is_documented_with_its_location(http: httpx.Client) -> None:
    for path, item in http.get("/openapi.json").json()["paths"].items():
        for method, operation in item.items():
            if "201" in operation["responses"]:
                assert "Location" in operation["responses"]["201"]["headers"], (method, path)


def test_what_was_made_is_at_its_location(http: httpx.Client) -> None:
    for method, path, body in (
        ("POST", "/v1/tokens", {"json": {"owner": "anna"}}),
        ("POST", "/v1/webhooks", {"json": {"url": "http://93.184.216.34/"}}),
        ("PUT", "/v1/datasets/mine/content", {"content": b"RIFFone"}),
    ):
        made = http.request(method, path, **body)
        assert made.status_code == 201, made.text
        shown = http.get(made.headers["location"]).json()
        assert shown["id"] == made.json()["id"]
        assert path != "/v1/tokens" or "secret" not in shown
    http.post("/v1/jobs", json={"name": "ina", "dataset_id": made.json()["id"]})
    link = http.post("/v1/voices/ina/links")
    shown = http.get(link.headers["location"]).json()
    assert (link.status_code, shown["id"], "secret" in shown) == (201, link.json()["id"], False)
    again = http.put("/v1/datasets/mine/content", content=b"RIFFone")
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    copy = http.post("/v1/datasets", json={"name": "copy", "sha256": made.json()["sha256"]})
    assert (copy.status_code, http.get(copy.headers["location"]).status_code) == (201, 200)
    assert http.post("/v1/session/code").status_code == 200


def test_what_is_done_at_once_is_200_and_what_a_worker_has_yet_to_do_is_202(http: httpx.Client, live: Any) -> None:
    waiting = f"/v1/jobs/{live.bench.job().id}"
    for step, status in (("pause", "paused"), ("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = http.post(f"{waiting}/{step}")
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    running = live.bench.job(priority=100)
    lease = live.bench.claim()
    assert lease.job_id == running.id
    for step, status in (
        ("pause", "pausing"),
        ("pause", "pausing"),
        ("cancel", "cancelling"),
        ("cancel", "cancelling"),
    ):
        answer = http.post(f"/v1/jobs/{running.id}/{step}")
        assert (answer.status_code, answer.json()["status"]) == (202, status)
    live.bench.jobs.release(lease, "stopped")
    done = http.post(f"/v1/jobs/{running.id}/cancel")
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")
