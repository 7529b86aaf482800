"""Compressed answers: text only, and nothing whose bytes are counted or streamed."""

import gzip
from collections.abc import Callable
from typing import Any

import httpx
import pytest

GZIP = {"Accept-Encoding": "gzip"}


def _raw(http: httpx.Client, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """An answer, and its bytes as they were sent."""
    with http.stream("GET", path, headers=GZIP | headers) as answer:
        return answer, b"".join(answer.iter_raw())


def test_pages_scripts_and_json_are_compressed(http: httpx.Client, live: Any) -> None:
    live.bench.job()
    for path in ("/", "/assets/js/job.js", "/assets/vendor/uplot/uPlot.esm.js", "/v1/jobs", "/openapi.json"):
        answer, sent = _raw(http, path)
        assert answer.headers["content-encoding"] == "gzip", path
        assert "Accept-Encoding" in answer.headers["vary"]
        plain = http.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert len(sent) < 0.7 * len(plain.content), path
        if path.startswith("/assets"):
            assert gzip.decompress(sent) == plain.content


@pytest.mark.parametrize(
    ("header", "is_compressed"),
    [
        ("gzip;q=0", False),
        ("identity, gzip;q=0, *", False),
        ("x-gzip-like", False),
        ("gzip;q=0.5", True),
        ("br, *", True),
        ("GZIP", True),
    ],
)
def test_a_coding_is_used_only_where_the_caller_accepts_it(
    http: httpx.Client, header: str, is_compressed: bool
) -> None:
    with http.stream("GET", "/openapi.json", headers={"Accept-Encoding": header}) as answer:
        assert (answer.headers.get("content-encoding") == "gzip") == is_compressed


def test_a_tag_of_a_compressed_answer_is_that_of_the_plain_one(http: httpx.Client, live: Any) -> None:
    path = f"/v1/jobs/{live.bench.job().id}"
    tags = {http.get(path, headers={"Accept-Encoding": coding}).headers["etag"] for coding in ("gzip", "identity")}
    assert len(tags) == 1
    for coding in ("gzip", "gzip", "identity", "gzip"):  # of one answer, which is made once for all
        assert http.get(path, headers={"Accept-Encoding": coding}).json()["name"] == "anna"
    assert http.get(path, headers=GZIP | {"If-None-Match": tags.pop()}).status_code == 304


def test_files_ranges_and_streams_are_sent_as_they_are(http: httpx.Client, finished: Callable[..., str]) -> None:
    voice = b"a voice " * 1000
    job_id = finished(voice, "anna")
    for path in (f"/v1/jobs/{job_id}/artifacts/anna.pth", f"/v1/jobs/{job_id}/artifacts.zip"):
        answer, sent = _raw(http, path)
        assert "content-encoding" not in answer.headers
        assert len(sent) == int(answer.headers["content-length"])
    answer, sent = _raw(http, f"/v1/jobs/{job_id}/artifacts/anna.pth", Range="bytes=0-999")
    assert (answer.status_code, sent) == (206, voice[:1000])
    answer, _ = _raw(http, f"/v1/jobs/{job_id}/events", Accept="text/event-stream")
    assert "content-encoding" not in answer.headers
