"""What callers without a token cannot do: fill the log and the audit trail, hold connections, sign others in."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from rvc_engine.translation.messages import LOCALES
from server.auth.authentication import address_of
from server.logging import _to_json
from server.middleware.languages import language_of

TERMINAL = "\x1b[31m\x9b31m\u202eevil\u2028"


def test_an_invalid_token_puts_little_of_the_path_into_the_audit_trail_and_no_control_character(
    http: httpx.Client,
) -> None:
    for path in ("x" * 60_000, TERMINAL, "\0"):
        refused = http.get(f"/v1/jobs/{quote(path)}", headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401, refused.text
    targets = [each["target"] for each in http.get("/v1/audit?action=token.refused&limit=3").json()["data"]]
    assert [len(each) <= 200 for each in targets] == [True] * 3
    assert targets[0] == r"/v1/jobs/\x00"
    assert targets[1] == r"/v1/jobs/\x1b[31m\x9b31m\u202eevil\u2028"


def test_a_line_of_the_log_has_letters_of_all_languages_and_no_control_character() -> None:
    line = _to_json({"path": f"声音\U0001f600 {TERMINAL}\x7f\ud800", "status": 200})
    assert "声音\U0001f600 " in line
    assert line.isprintable()
    assert json.loads(line)["path"] == f"声音\U0001f600 {TERMINAL}\x7f\ud800"


def test_a_log_line_has_the_beginning_of_a_path(
    live: Any, caplog: pytest.LogCaptureFixture, eventually: Callable[..., None]
) -> None:
    def lines() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name == "server.middleware.request_context"]

    with caplog.at_level("INFO"):
        httpx.get(f"{live.url}/{'y' * 30_000}")
        eventually(lines)
    assert "/yyyy" in lines()[-1]
    assert len(lines()[-1]) < 1000


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8::1", 0), "2001:db8::1"),
        (("\x1b[31m" + "x" * 3000, 0), ""),
        (None, ""),
    ],
)
def test_an_address_is_an_address_whatever_a_proxy_passes_on(client: Any, address: str) -> None:
    assert address_of({"client": client}) == address


def test_a_connection_without_a_request_is_closed_and_one_with_a_request_is_not(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr("server.http.connections.HEAD_SECONDS", 0.5)
    with serve(tmp_path) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        streaming = server.bench.job()
        with server.client() as http, http.stream("GET", f"/v1/jobs/{streaming.id}/logs?follow=true") as stream:
            for beginning in (
                b"",
                b"GET / HTTP/1.1\r\nHost: here\r\nX-Slow: ",
                b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n",
            ):
                with socket.create_connection(address, 10) as silent:
                    silent.sendall(beginning)
                    while silent.recv(65536):  # the answer, if any, and then the end
                        pass
            server.context.jobs.cancel(streaming.id)
            assert "event: end" in stream.read().decode()


def test_a_body_that_does_not_end_is_answered_with_408_and_an_upload_may_take_longer(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authorized: dict[str, str]
) -> None:
    monkeypatch.setattr("server.middleware.request_context.BODY_SECONDS", 0.3)
    token = authorized["Authorization"].encode()
    with serve(tmp_path, upload_idle_seconds=1) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))

        def answer(request: bytes) -> bytes:
            with socket.create_connection(address, 20) as slow:
                slow.sendall(
                    request
                    + b"Connection: close\r\nHost: h\r\nAuthorization: "
                    + token
                    + b"\r\nContent-Length: 50\r\n\r\n{"
                )
                return b"".join(iter(lambda: slow.recv(65536), b""))

        json_type = b"Content-Type: application/json\r\n"
        for path in (b"POST /v1/jobs", b"POST /v1/session"):
            response = answer(path + b" HTTP/1.1\r\n" + json_type)
            assert b" 408 " in response.splitlines()[0]
            assert b'"too_slow"' in response
        response = answer(b"PUT /v1/datasets/a/content HTTP/1.1\r\n")
        assert b"the upload received no data for 1 s" in response


def test_a_page_of_another_origin_signs_nobody_in(guarded: Any) -> None:
    token = {"token": "the-first-token-of-all"}
    here = guarded.url
    for origin in ("http://evil.example", "null", here.replace("127.0.0.1", "localhost")):
        refused = httpx.post(f"{here}/v1/session", json=token, headers={"Origin": origin})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), origin
        assert "set-cookie" not in refused.headers
    for headers in ({"Origin": here}, {}):
        assert httpx.post(f"{here}/v1/session", json=token, headers=headers).status_code == 204


def test_a_page_over_http_writes_nothing_to_a_server_over_https(guarded: Any) -> None:
    """Whoever controls the network can serve the former under the same name."""
    here = guarded.url
    secure = {"X-Forwarded-Proto": "https"}
    signed_in = httpx.post(f"{here}/v1/session", json={"token": "the-first-token-of-all"}, headers=secure)
    cookie = {"Cookie": signed_in.headers["set-cookie"].partition(";")[0]}
    for origin, status in ((here, 403), (here.replace("http:", "https:"), 200)):
        made = httpx.post(f"{here}/v1/session/code", headers={"Origin": origin} | secure | cookie)
        assert made.status_code == status, origin


def test_a_request_without_host_and_origin_writes_nothing_with_a_cookie(guarded: Any) -> None:
    here = guarded.url
    signed_in = httpx.post(f"{here}/v1/session", json={"token": "the-first-token-of-all"})
    cookie = signed_in.headers["set-cookie"].partition(";")[0].encode()
    with socket.create_connection(("127.0.0.1", int(here.rpartition(":")[2])), 10) as old:
        old.sendall(b"POST /v1/session/code HTTP/1.0\r\nCookie: " + cookie + b"\r\nContent-Length: 0\r\n\r\n")
        assert b" 403 " in old.recv(65536).splitlines()[0]


def test_a_cookie_with_many_escapes_keeps_the_server_busy_for_no_time(live: Any) -> None:
    """Some versions of Python take 20 s and more to read it, twice for a page."""
    began = time.monotonic()
    escapes = 'a="' + '\\"' * 30_000 + '"'
    for path in ("/", "/v1/jobs"):
        assert httpx.get(live.url + path, headers={"Cookie": escapes}, timeout=200).status_code in {200, 401}
    assert time.monotonic() - began < 10


def test_languages_without_number_keep_the_server_busy_for_no_time_and_are_no_paths(
    live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at before any limit. A catalogue in a folder that the caller names would be the caller's own."""
    catalogue = tmp_path / "LC_MESSAGES"
    catalogue.mkdir()
    (catalogue / "messages.mo").write_bytes((LOCALES / "zh" / "LC_MESSAGES" / "messages.mo").read_bytes())
    if os.name == "posix":  # links there are for everyone
        folder = Path("/tmp") / f"rvc{os.getpid()}"
        folder.symlink_to(tmp_path)
        try:
            assert language_of(f"{folder}, en;q=0.5") == "en"
        finally:
            folder.unlink()
    began = time.monotonic()
    for request in range(3):
        languages = ",".join(f"q{request}x{number}" for number in range(6000))
        assert httpx.get(f"{live.url}/v1/jobs", headers={"Accept-Language": languages}).status_code == 401
    assert time.monotonic() - began < 1


def test_a_body_with_many_faults_is_answered_with_some_and_that_of_a_stranger_is_short(live: Any) -> None:
    faults = {f"f{number}": 1 for number in range(80_000)}
    with live.client() as http:
        refused = http.post("/v1/webhooks", json=faults, timeout=60)
    assert (refused.status_code, len(refused.json()["errors"])) == (422, 100)
    assert "(and 80000 more)" in refused.json()["detail"]
    stranger = httpx.post(f"{live.url}/v1/session", json=faults, timeout=60)
    assert (stranger.status_code, stranger.json()["code"]) == (413, "too_large")
