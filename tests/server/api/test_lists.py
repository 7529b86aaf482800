"""Lists: one shape for all of them, and cursors that do not depend on the rows that they point at."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from rvc_engine.events import Evaluated, PreviewReady
from rvc_train.schemas.webhooks import WebhookCreate
from server.results.evaluations import PreviewFiles
from server.storage.local import StoredFile

WEBHOOK = WebhookCreate(url="http://127.0.0.1:9/")


def pages(http: httpx.Client, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Each page of a list, with one row unless the query has another limit."""
    query = {"limit": 1, **query}
    while True:
        page = http.get(path, params=query)
        assert page.status_code == 200, page.text
        yield page.json()
        if not page.json()["has_more"]:
            assert (page.json()["next_cursor"], page.links) == (None, {})
            return
        query["after"] = page.json()["next_cursor"]


def test_every_list_has_the_same_shape_and_parameters(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    lists = {}
    for path, item in document["paths"].items():
        content = item.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        shape = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        if "data" in document["components"]["schemas"].get(shape, {}).get("properties", {}):
            lists[path] = shape
            names = {parameter["name"] for parameter in item["get"]["parameters"]}
            assert {"after", "limit"} <= names, path
            assert {"data", "has_more", "next_cursor"} <= set(document["components"]["schemas"][shape]["required"])
    ends = "jobs datasets webhooks deliveries tokens owners audit workers weights base-weights voices events metrics"
    assert {path.rpartition("/")[2] for path in lists} == {
        *ends.split(),
        "artifacts",
        "checkpoints",
        "conversions",
        "previews",
        "versions",
        "links",
    }
    for path in lists:
        if "{" not in path:
            page = http.get(path, params={"limit": 10**9})
            assert page.status_code == 200, page.text
            more = {"last_cursor"} if path == "/v1/events" else set()  # to go on there when more has happened
            assert page.json().keys() == {"data", "has_more", "next_cursor"} | more


def test_a_limit_above_the_most_is_taken_as_the_most(http: httpx.Client, live: Any) -> None:
    for number in range(101):
        live.context.webhooks.create(f"owner-{number % 2}", WEBHOOK)
    page = http.get("/v1/webhooks", params={"limit": 1000}).json()
    assert (len(page["data"]), page["has_more"]) == (100, True)


def test_a_cursor_outlives_the_job_it_points_at(http: httpx.Client, finished: Callable[..., str]) -> None:
    ids = [finished(b"voice", f"old-{number}") for number in range(3)][::-1]
    found = []
    for page in pages(http, "/v1/jobs", search="old-"):
        found += [job["id"] for job in page["data"]]
        assert http.delete(f"/v1/jobs/{found[-1]}").status_code == 204
    assert found == ids


def test_lists_of_one_job_are_paged_too(http: httpx.Client, live: Any) -> None:
    job, bench = live.bench.job(priority=100), live.bench
    lease = bench.claim()
    assert lease.job_id == job.id
    for number in (1, 2, 3):
        at = {"step": 10 * number, "epoch": number}
        bench.jobs.record_events(
            lease, [Evaluated(values={"eval/mel": 1.0}, held_out=True, is_best=True, num_clips=8, seconds=1.5, **at)]
        )
        file = StoredFile(f"jobs/preview-{number}", 1, "00")
        preview = PreviewReady(clip=1, seconds=4.0, scores={}, audio="", picture="", recording="", **at)
        bench.jobs.publish_preview(lease, preview, PreviewFiles(file, file, file))
        bench.jobs.publish_artifact(lease, "voice", f"{number}.pth", f"jobs/{number}", 3, "00")
    base = f"/v1/jobs/{job.id}"
    for path, key, expected in (
        ("checkpoints", "step", [10, 20, 30]),
        ("previews", "step", [10, 20, 30]),
        ("artifacts", "name", ["1.pth", "2.pth", "3.pth"]),
        ("metrics", "key", ["eval/mel"]),
    ):
        assert [row[key] for page in pages(http, f"{base}/{path}") for row in page["data"]] == expected, path
        assert [row[key] for row in http.get(f"{base}/{path}").json()["data"]] == expected, path
    events = [row["seq"] for page in pages(http, f"{base}/events", limit=2) for row in page["data"]]
    assert events == list(range(1, len(events) + 1))
    of_all = [row["seq"] for page in pages(http, f"/v1/events?job={job.id}", limit=2) for row in page["data"]]
    assert of_all == events
    bench.jobs.cancel(job.id)


def test_weights_are_paged_in_their_order(http: httpx.Client) -> None:
    ids = [one["id"] for one in http.get("/v1/weights").json()["data"]]
    assert [one["id"] for page in pages(http, "/v1/weights", limit=4) for one in page["data"]] == ids


def of(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "job_01",
        "é",
        of("[]"),
        of('["jobs"]'),
        of('["datasets","ds_1"]'),
        of('["jobs","1"]'),
        of(f'["jobs",{2**64}]'),
        of('["jobs",-1]'),
        of('["jobs",1.5]'),
        of('["jobs",true]'),
        "A" * 400,
    ],
)
def test_what_is_no_cursor_of_the_list_is_refused(http: httpx.Client, cursor: str) -> None:
    answer = http.get("/v1/jobs", params={"after": cursor})
    (fault,) = answer.json()["errors"]
    assert (answer.status_code, fault["parameter"]) == (422, "after")


def test_a_cursor_of_one_list_is_refused_by_another(http: httpx.Client, live: Any) -> None:
    for _ in range(2):
        live.context.webhooks.create("bob", WEBHOOK)
    cursor = http.get("/v1/webhooks", params={"limit": 1}).json()["next_cursor"]
    assert not re.search("whk_", cursor)
    assert http.get("/v1/webhooks", params={"after": cursor}).status_code == 200
    assert http.get("/v1/datasets", params={"after": cursor}).status_code == 422
