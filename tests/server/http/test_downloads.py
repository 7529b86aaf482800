"""Artifacts over HTTP: whole, in ranges, only when changed, as one zip, under names in any script."""

import base64
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.blobs.dispositions import content_disposition
from server.errors import RangeNotSatisfiable
from server.http.downloads import parse_range

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several pieces
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture(scope="module")
def job_id(live):
    bench = live.bench
    job = bench.job(name="声音 «x»")
    lease = bench.claim()
    source = live.context.storage.workspace(job.id) / "made"
    source.parent.mkdir(parents=True)
    source.write_bytes(CONTENT)
    stored = live.context.storage.store_artifact(job.id, lease.token, source)
    for kind, name in (("voice", "声音 «x».pth"), ("index", "声音 «x».index")):
        live.context.jobs.publish_artifact(lease, kind, name, stored.path, stored.size, stored.sha256)
    live.context.jobs.succeed(lease)
    return job.id


@pytest.fixture
def url(http, job_id):
    return http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"][1]["url"]


def test_artifacts_are_listed_with_size_and_sha256(http, job_id):
    found = http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    assert [(each["name"], each["kind"]) for each in found] == [("声音 «x».index", "index"), ("声音 «x».pth", "voice")]
    assert {(each["size"], f'"{each["sha256"]}"') for each in found} == {(len(CONTENT), ETAG)}


def test_a_whole_file_comes_with_its_hash_as_etag_and_its_name(http, url):
    answer = http.get(url)
    assert (answer.status_code, answer.content == CONTENT, answer.headers["etag"]) == (200, True, ETAG)
    assert "filename*=UTF-8''%E5%A3%B0%E9%9F%B3%20%C2%ABx%C2%BB.pth" in answer.headers["content-disposition"]


def test_head_tells_the_same_without_the_bytes(http, url):
    got, headed = http.get(url), http.head(url, headers={"Range": "bytes=0-9"})  # ranges are for GET alone
    assert headed.status_code == 200
    assert headed.content == b""
    for name in ("content-length", "etag", "accept-ranges", "content-disposition", "content-type"):
        assert headed.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("0-0", 0, 1),
        ("100-199", 100, 200),
        (f"{len(CONTENT) - 5}-", -5, None),
        ("-7", -7, None),
        ("5-99999999", 5, None),
        ("5-" + "9" * 20, 5, None),
        ("-" + "9" * 20, 0, None),
    ],
)
def test_a_range_gives_exactly_these_bytes(http, url, asked, start, end):
    answer = http.get(url, headers={"Range": f"Bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    first = start % len(CONTENT)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(CONTENT)}"


def test_a_range_beyond_the_end_is_416_and_tells_the_size(http, url):
    answer = http.get(url, headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    assert answer.json()["code"] == "range_not_satisfiable"


def test_a_range_is_given_only_of_the_file_that_the_caller_has_begun(http, url):
    headers = {"Range": "bytes=10-"}
    assert http.get(url, headers=headers | {"If-Range": ETAG}).status_code == 206
    changed = http.get(url, headers=headers | {"If-Range": '"another"'})
    assert (changed.status_code, changed.content == CONTENT) == (200, True)


def test_a_file_that_the_caller_has_is_not_sent_again(http, url):
    answer = http.get(url, headers={"If-None-Match": f'"x", {ETAG}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", ETAG)
    assert http.get(url, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("date", ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 0000 00:00:00 GMT", "soon"])
def test_a_date_that_no_calendar_has_is_passed_over(http, url, date):
    assert http.get(url, headers={"If-Modified-Since": date}).status_code == 200


def test_only_the_file_that_the_caller_means_is_sent(http, url):
    for wanted, status in ((ETAG, 200), (f'"x", {ETAG}', 200), ("*", 200), ('"x"', 412), (f"W/{ETAG}", 412)):
        assert http.get(url, headers={"If-Match": wanted}).status_code == status
    assert http.get(url, headers={"If-Match": '"x"', "Range": "bytes=0-9"}).status_code == 412


def test_a_file_has_its_digest_and_its_time(http, url):
    answer = http.get(url, headers={"Range": "bytes=0-9"})  # the digest is of the whole
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"
    stored_at = answer.headers["last-modified"]
    assert http.get(url, headers={"If-Modified-Since": stored_at}).status_code == 304
    for headers in ({"If-None-Match": '"x"'}, {"If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT"}, {}):
        since = {"If-Modified-Since": stored_at} if "If-None-Match" in headers else {}
        assert http.get(url, headers=since | headers).status_code == 200


def test_a_file_that_is_no_longer_stored_is_410(http, live, finished):
    job_id = finished(b"soon gone")
    live.context.storage.delete_job(job_id)
    answer = http.get(f"/v1/jobs/{job_id}/artifacts/anna.pth")
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")


def test_another_name_is_404(http, job_id):
    assert http.get(f"/v1/jobs/{job_id}/artifacts/..%2f..%2frvc-train.db").status_code == 404


SENSELESS = (None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "items=0-1", "bytes=0-" + "9" * 5000)


@pytest.mark.parametrize("header", SENSELESS, ids=lambda header: str(header)[:20])
def test_a_range_that_makes_no_sense_is_passed_over(header):
    assert parse_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0"])
def test_a_range_without_a_byte_is_an_error(header):
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 10)


def test_a_quote_in_a_name_does_not_break_the_header():
    assert content_disposition('a"b\\c\r\n.pth').startswith('attachment; filename="a_b_c__.pth"; filename*=')


def test_all_files_come_in_one_zip_of_the_announced_length(
    http: httpx.Client, live: Any, finished: Callable[..., str]
) -> None:
    content = bytes(range(256)) * 4000
    job_id = finished(content, "анна b")
    answer = http.get(f"/v1/jobs/{job_id}/artifacts.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    headed = http.head(f"/v1/jobs/{job_id}/artifacts.zip")
    assert (headed.status_code, headed.headers["content-length"]) == (200, answer.headers["content-length"])
    assert headed.headers["accept-ranges"] == "none"
    assert "filename*=UTF-8''%D0%B0%D0%BD%D0%BD%D0%B0%20b.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.read("анна b.pth") == content


def test_a_job_without_files_has_no_zip(http: httpx.Client, live: Any) -> None:
    job = live.bench.job(name="young")
    assert http.get(f"/v1/jobs/{job.id}/artifacts.zip").status_code == 404


@pytest.mark.parametrize("query", ["", "?tail=20", "?offset=1"])
def test_a_log_that_is_deleted_while_it_is_asked_for_is_404(http, live, job_id, query, monkeypatch):
    assert not live.context.storage.job_log(job_id).exists()
    for module in ("server.api.jobs.logs", "server.results.logs"):
        monkeypatch.setattr(f"{module}.log_size", lambda _: 15)  # as it was a moment ago
    answer = http.get(f"/v1/jobs/{job_id}/logs{query}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")
def test_a_file_is_closed_though_nobody_reads_it_to_its_end(http, live, url, eventually):
    with http.stream("GET", url) as answer:
        next(answer.iter_bytes(10))
    http.head(url)
    opened = Path("/proc/self/fd")
    eventually(lambda: not any("/artifacts/" in os.path.realpath(each) for each in opened.iterdir()))
