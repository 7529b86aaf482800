"""Malformed headers, queries and bodies: each gets an answer below 500, or is not HTTP."""

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HEADERS = (
    *("range", "if-range", "if-none-match", "if-match", "if-modified-since", "last-event-id", "accept", "cookie"),
    *("authorization", "content-type", "content-length", "transfer-encoding", "content-encoding", "expect", "host"),
    *("origin", "x-request-id", "idempotency-key", "tus-resumable", "upload-offset", "upload-length", "connection"),
    *("upload-metadata", "upload-checksum", "accept-encoding", "x-forwarded-for", "forwarded", "date", "prefer"),
)
READ_HERE = (*HEADERS[:9], "host", "origin", "x-request-id")
VALUES = (
    *("", " ", ",", ";", "=", '"', "\\", "*", "-", "0", "-1", "1e9", "00", "9" * 400, str(2**63), str(2**64), "nan"),
    *(
        "bytes=",
        "bytes=-",
        "bytes=0-",
        "bytes=-0",
        "bytes=5-2",
        "bytes=0-0,2-3",
        f"bytes={2**64}-",
        "bytes=a-b",
        "lines=1-2",
    ),
    *(
        'W/"x"',
        '"' + "a" * 64 + '"',
        '"a", "b"',
        "chunked",
        "gzip",
        "text/event-stream",
        "application/json;q=x",
        "*/*;;",
    ),
    *(
        "rvc_session=",
        "rvc_session=x; rvc_session=y",
        "a=b;" * 300,
        "=;=",
        '$Version="1"',
        "Bearer",
        "Bearer  ",
        "Basic eA==",
    ),
    *(
        "sha256 ",
        "sha256 !!!",
        "md4 aa",
        "Bearer \xff\xfe",
        "\x01\x02\x7f",
        "\u00e9" * 30,
        "100-continue",
        "close",
        "evil.example",
    ),
    *(
        "null",
        "http://[::1",
        "http://evil.example",
        "[::1",
        "localhost:99999",
        "a" * 7000,
        "%00%ff",
        "../../etc/passwd",
        "${jndi}",
    ),
)
QUERIES = (
    *(
        "?",
        "?&&&",
        "?=",
        "?after=",
        "?after=%00",
        "?after=%ff%fe",
        "?after=job_zz",
        "?after=-1",
        "?after=1e5",
        "?limit=",
    ),
    *(
        "?limit=0",
        "?limit=101",
        "?limit=1.0",
        "?limit=true",
        f"?limit={10**30}",
        "?limit=1&limit=2",
        "?status=",
        "?status=%00",
    ),
    *(
        "?status=queued&status=nothing",
        "?dataset=%F0%9F%8E%A4",
        "?dataset=%ED%A0%80",
        "?label.=",
        "?label.k=v&label.k=w",
    ),
    *("?label.%00=%00", "?label=x", "?label." + "k" * 300 + "=v", "?label.a%27%3B--=%25_", "?after=9&limit=9&x[]=1"),
    *(
        "?since_step=-1",
        f"?since_step={2**63}",
        "?max_points=1",
        "?key=%00",
        "?tail=-1",
        f"?offset={2**70}",
        "?follow=maybe",
    ),
)
BODIES = (
    *(
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"1",
        b"{",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 5000,
    ),
    *(b"NaN", b'{"name": NaN}', b'{"name": 1e999}', b"1" * 5000, b'{"name": "\\ud800"}', b'{"name": "\\u0000"}'),
    *(b'{"name": "a", "dataset_id": "\\udfff"}', b'{"name": "a", "dataset_id": "x", "labels": {"\\ud800": "\\u0000"}}'),
    *(b'{"name": "a", "dataset_id": "x", "config": {"seed": ' + b"9" * 4000 + b"}}", b'{"token": "\\ud800"}'),
    *(
        b'{"url": "http://[", "events": []}',
        b'{"url": "http://\\ud800/"}',
        b'{"url": "http://a:99999/"}',
        b'{"owner": "\\u0000"}',
    ),
    *(
        b'{"name": "x", "sha256": "' + b"0" * 64 + b'"}',
        b'{"name": "x", "upload_id": "\\u0000"}',
        b'{"keep_days": -0.0}',
    ),
    *(
        b'{"name": "x", "name": "y"}',
        b'{"__proto__": {}, "name": ["x"]}',
        b"a=b&c=d",
        b'{"labels": null, "priority": true}',
    ),
)


@pytest.fixture(scope="module")
def paths(live: Any) -> dict[str, list[str]]:
    """Addresses of existing resources, by method."""
    job = live.bench.job()
    upload = live.context.uploads.create("local", 100, "").id
    live.context.storage.job_log(job.id).parent.mkdir(parents=True)
    live.context.storage.job_log(job.id).write_text("a line\n" * 50)
    of_job = [f"/v1/jobs/{job.id}{part}" for part in ("", "/logs", "/metrics", "/artifacts", "/previews", "/events")]
    lists = [f"/v1/{kind}" for kind in ("jobs", "datasets", "webhooks", "tokens", "audit", "queue", "owners")]
    document = httpx.get(f"{live.url}/openapi.json").json()["paths"]
    with_body = [
        (method.upper(), path) for path, item in document.items() for method in item if "requestBody" in item[method]
    ]
    filled = [(method, path.replace("{job_id}", job.id).replace("{owner}", "anna")) for method, path in with_body]
    return {
        "GET": [*of_job, *lists, "/readyz", "/metrics", "/docs", "/static/docs.js", "/v1/jobs/%00", "/v1/datasets/%ff"],
        "HEAD": [f"/v1/uploads/{upload}", f"/v1/jobs/{job.id}/artifacts/anna.pth"],
        "BODY": [f"{method} {path}" for method, path in filled if "{" not in path],
    }


@pytest.fixture(scope="module")
def ask(live: Any, authorized: dict[str, str]) -> Callable[..., int]:
    """`ask(method, path, headers, body)` sends exactly these bytes and returns the status; 0 without an answer."""
    address = urlsplit(live.url)

    def asked(method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> int:
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        names = {name for name, _ in headers}
        if "host" not in names:
            lines.append(f"host: {address.netloc}")
        if "authorization" not in names:
            lines.append(f"authorization: {authorized['Authorization']}")
        if body and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"content-length: {len(body)}")
        request = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
        is_waiting = bool(names & {"content-length", "transfer-encoding", "expect"})  # for what does not come
        with socket.create_connection(
            (address.hostname, address.port), timeout=0.2 if is_waiting else 10
        ) as connection:
            connection.sendall(request)
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                assert is_waiting
                return 0
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0

    return asked


_values = st.sampled_from(VALUES) | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
_headers = st.lists(st.tuples(st.sampled_from(HEADERS), _values), max_size=4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(headers=_headers, query=st.sampled_from(["", *QUERIES]), method=st.sampled_from(["GET", "HEAD"]), data=st.data())
def test_odd_headers_and_queries_get_an_answer(
    ask: Callable[..., int], paths: dict[str, list[str]], headers: Any, query: str, method: str, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(paths[method]))
    assert ask(method, path + query, headers) < 500


@pytest.mark.parametrize("header", READ_HERE)
def test_each_odd_value_of_each_header_gets_an_answer(
    ask: Callable[..., int], paths: dict[str, list[str]], header: str
) -> None:
    for number, value in enumerate(VALUES):
        path = paths["GET"][number % 6]
        assert ask("GET", path, [(header, value)]) < 500, (path, value)


def test_each_odd_query_of_each_list_gets_an_answer(ask: Callable[..., int], paths: dict[str, list[str]]) -> None:
    for path in paths["GET"][1:13:2]:
        for query in QUERIES:
            assert ask("GET", path + query, []) < 500, path + query


def test_each_odd_body_gets_an_answer_below_500(ask: Callable[..., int], paths: dict[str, list[str]]) -> None:
    for target in paths["BODY"]:
        method, _, path = target.partition(" ")
        for body in BODIES:
            status = ask(method, path, [("content-type", "application/json")], body)
            assert 200 <= status < 500, (target, body[:60], status)


def test_a_half_surrogate_or_a_null_character_is_refused_with_a_sentence(http: httpx.Client) -> None:
    for name in ("\\ud800", "\\u0000", "a\\u0000b"):
        body = f'{{"name": "{name}", "dataset_id": "x"}}'.encode()
        answer = http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), name
        assert json.loads(answer.content)["detail"]
