"""Bodies that no route reads are refused at once, with what to send instead."""

import gzip
from typing import Any

import httpx
import pytest

FORM = "application/x-www-form-urlencoded"
CONTENT = "/v1/datasets/form/content"


@pytest.mark.parametrize("media_type", [f"{FORM}; charset=utf-8", "multipart/form-data; boundary=x", "Multipart/mixed"])
def test_a_form_is_no_recording(http: httpx.Client, media_type: str) -> None:
    answer = http.put(CONTENT, content=b"--x\r\n", headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "send the bytes of the file themselves as the body" in answer.json()["detail"]
    assert "Content-Type: application/octet-stream" in answer.json()["detail"]
    assert http.get("/v1/datasets").json()["data"] == []


def test_a_form_upload_of_a_browser_or_of_requests_is_refused_while_it_is_sent(http: httpx.Client) -> None:
    answer = http.put(CONTENT, files={"file": ("anna.zip", bytes(5_000_000))})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", [CONTENT, "/v1/jobs", "/v1/uploads"])
def test_an_encoded_body_is_refused(http: httpx.Client, path: str) -> None:
    body = gzip.compress(b"{}")
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "Tus-Resumable": "1.0.0"}
    answer = http.request("PUT" if path == CONTENT else "POST", path, content=body, headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert "Content-Encoding: gzip" in answer.json()["detail"]


@pytest.mark.parametrize("media_type", ["text/plain", FORM, None, "application/jsonp"])
def test_what_is_not_json_is_told_what_to_send(http: httpx.Client, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = http.post("/v1/jobs", content=b'{"name": "a"}', headers=headers)
    assert answer.status_code == 415
    assert "send JSON with the header Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/merge-patch+json"])
def test_json_of_any_kind_is_read(http: httpx.Client, live: Any, media_type: str) -> None:
    job = live.bench.job()
    headers = {"Content-Type": media_type, "Content-Encoding": "identity"}
    answer = http.patch(f"/v1/jobs/{job.id}", content=b'{"labels": {"a": "b"}}', headers=headers)
    assert (answer.status_code, answer.json()["labels"]) == (200, {"a": "b"})


def test_a_request_without_a_body_needs_no_media_type(http: httpx.Client, live: Any) -> None:
    job = live.bench.job()
    answer = http.post(f"/v1/jobs/{job.id}/pause", headers={"Content-Type": FORM, "Content-Length": "0"})
    assert answer.is_success
