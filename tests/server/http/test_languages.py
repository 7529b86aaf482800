"""Sentences of the server in the language of `Accept-Language`; everything else of an answer stays as it is."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rvc_engine.errors import FailureCode
from server.middleware.languages import language_of

CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.5"}


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.5", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("xx,zh;q=0.3", "zh"),
        ("zh;q=0", "en"),
        ("*", "en"),
        ("../../etc", "en"),
    ],
)
def test_the_most_preferred_language_with_a_catalogue_is_chosen(header: str, language: str) -> None:
    assert language_of(header) == language


def test_errors_and_their_parts_are_chinese_where_that_is_asked_for(http: httpx.Client) -> None:
    body = {"name": "anna", "dataset_id": "ds_" + "0" * 32, "config": {"save_every_epochs": 0}}
    english, chinese = http.post("/v1/jobs", json=body), http.post("/v1/jobs", json=body, headers=CHINESE)
    assert chinese.headers["content-language"] == "zh"
    assert "Accept-Language" in chinese.headers["vary"]
    assert "Accept-Language" in english.headers["vary"]
    (fault,) = chinese.json()["errors"]
    assert fault["detail"] == "应大于或等于 1"
    assert fault["pointer"] == english.json()["errors"][0]["pointer"] == "/config/save_every_epochs"
    missing = http.get("/v1/jobs/job_" + "0" * 32, headers=CHINESE).json()
    assert (missing["code"], missing["detail"]) == ("not_found", "没有任务 job_" + "0" * 32)


def test_a_jobs_failure_and_events_are_chinese_and_what_is_its_owners_stays(http: httpx.Client, live: Any) -> None:
    bench = live.bench
    job = bench.job(name="the dataset was deleted", labels={"reason": "no-speech"}, priority=100)
    lease = bench.claim()
    assert lease.job_id == job.id
    bench.jobs.fail(lease, FailureCode.INVALID_DATASET, "the dataset was deleted")
    path = f"/v1/jobs/{job.id}"
    shown = http.get(path, headers=CHINESE).json()
    plain = http.get(path).json()
    assert (plain["error"]["message"], shown["error"]["message"]) == ("the dataset was deleted", "数据集已被删除")
    assert (shown["name"], shown["labels"], shown["config"]) == (plain["name"], plain["labels"], plain["config"])
    events = http.get(f"{path}/events", headers=CHINESE).json()["data"]
    assert [event["message"] for event in events if event["type"] == "queued"] == ["等待工作进程"]


def test_each_language_has_a_tag_of_its_own_and_conditions_hold_in_both(http: httpx.Client, live: Any) -> None:
    path = f"/v1/jobs/{live.bench.job(name='anna').id}"
    tags = {}
    for language in ("en", "zh"):
        headers = {"Accept-Language": language}
        tags[language] = http.get(path, headers=headers).headers["etag"]
        unchanged = http.get(path, headers=headers | {"If-None-Match": tags[language]})
        assert (unchanged.status_code, unchanged.headers["etag"]) == (304, tags[language])
    assert tags["en"] != tags["zh"]
    changed = http.patch(path, json={"priority": 5}, headers={"Accept-Language": "zh", "If-Match": tags["zh"]})
    assert changed.status_code == 200, changed.text
    again = http.patch(path, json={"priority": 6}, headers={"Accept-Language": "zh", "If-Match": tags["zh"]})
    assert again.status_code == 412


def test_head_and_files_are_as_before(http: httpx.Client, finished: Callable[..., str]) -> None:
    job_id = finished(b"voice")
    path = f"/v1/jobs/{job_id}"
    plainly = CHINESE | {"Accept-Encoding": "identity"}
    length = http.head(path, headers=plainly).headers["content-length"]
    assert length == str(len(http.get(path, headers=plainly).content))
    (artifact,) = http.get(f"{path}/artifacts", headers=CHINESE).json()["data"]
    assert http.get(artifact["url"], headers=CHINESE).content == b"voice"
