"""HEAD for whatever GET gives: the same headers, no body, and nothing changed."""

import http.client
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from server.app import create_app
from server.settings import ServerSettings

PATHS = ["/", "/docs", "/livez", "/readyz", "/metrics", "/openapi.json", "/assets/icon.svg", "/v1/me", "/v1/jobs"]


def test_every_get_of_the_interface_has_head(http: httpx.Client, finished: Callable[..., str], tmp_path: Path) -> None:
    job_id = finished(b"a voice", "anna")
    name = defaultdict(lambda: "none", {"job_id": job_id, "name": "anna.pth", "weights_id": "hubert"})
    document = create_app(ServerSettings(data_folder=tmp_path)).openapi()
    paths = [path.format_map(name) for path, item in document["paths"].items() if "get" in item]
    assert len(paths) > 20
    for path in [*PATHS, *paths]:
        got, headed = http.get(path), http.head(path)
        assert (headed.status_code, headed.content) == (got.status_code, b""), path
        assert headed.headers["content-type"] == got.headers["content-type"], path


def test_head_of_a_stream_ends_after_its_headers(http: httpx.Client, live: Any) -> None:
    job_id = live.bench.job().id
    for path in (f"/v1/jobs/{job_id}/events", f"/v1/jobs/{job_id}/logs?follow=true"):
        for _ in range(live.context.settings.max_streams + 1):  # and none counts as open
            answer = http.head(path, headers={"Accept": "text/event-stream"})
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")


def test_head_leaves_the_connection_usable(live: Any) -> None:
    url = urlsplit(live.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)
    for path in ("/livez", "/", "/openapi.json", "/nothing", "/livez"):
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert answer.read() == b""
        assert not answer.will_close
    connection.close()


def test_head_where_there_is_no_get_names_the_methods(http: httpx.Client) -> None:
    answer = http.head("/v1/jobs:estimate")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST, OPTIONS", b"")


def test_head_needs_the_token_that_get_needs(live: Any) -> None:
    assert httpx.head(f"{live.url}/v1/jobs").status_code == 401
