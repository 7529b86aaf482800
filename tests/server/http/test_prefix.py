"""Below a path of a proxy: every address that a browser or a client follows begins with it."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from server.http.prefix import prefix_of

SCRIPTS = sorted((Path(__file__).parents[3] / "server" / "pages" / "static" / "js").rglob("*.js"))
BELOW = {"X-Forwarded-Prefix": "/voices"}
TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("/voices", "/voices"),
        ("/voices/", "/voices"),
        ("/a/b-c_d.e~1", "/a/b-c_d.e~1"),
        ("", ""),
        ("/", ""),
        ("//evil.example", ""),
        ("/voices//x", ""),
        ("/../x", ""),
        ("voices", ""),
        ("https://evil.example", ""),
        ('/a"b', ""),
        ("/a\r\nb", ""),
        ("/a" * 200, ""),
    ],
)
def test_only_a_path_of_this_host_is_taken(given: str, prefix: str) -> None:
    assert prefix_of({"headers": [(b"x-forwarded-prefix", given.encode())]}) == prefix


@pytest.mark.parametrize("path", ["/", "/new", "/jobs/job_x", "/server", "/sign-in"])
def test_a_page_asks_for_nothing_outside(http: httpx.Client, path: str) -> None:
    page = http.get(path, headers=BELOW).text
    addresses = re.findall(r'(?:src|href)="([^"#]+)[^"]*"', page)
    assert addresses
    for address in addresses:
        assert address.startswith("/voices/")
        assert http.get(address.removeprefix("/voices")).status_code == 200, address
    assert 'data-root="/voices"' in page
    assert 'data-root=""' in http.get(path).text


def test_no_script_asks_for_an_address_outside() -> None:
    for script in SCRIPTS:
        found = re.findall(r"(?:fetch|assign|replace|EventSource)\(\s*[`\"']/.*", script.read_text())
        found += re.findall(r"\.(?:href|src) = [`\"']/.*", script.read_text())
        assert found == [], script


def test_the_documentation_and_the_document_name_relative_addresses(http: httpx.Client) -> None:
    page = http.get("/docs").text
    assert re.findall(r'(?:src|href)="(/[^"]*)"', page) == []
    assert 'url: "openapi.json"' in http.get("/static/docs.js").text
    assert http.get("/openapi.json").json()["servers"][0]["url"] == "."


def test_location_and_link_begin_with_it(http: httpx.Client, live: Any) -> None:
    for _ in range(2):
        live.bench.job()
    assert http.post("/v1/uploads", headers=TUS | BELOW).headers["location"].startswith("/voices/v1/uploads/upl_")
    assert http.post("/v1/uploads", headers=TUS).headers["location"].startswith("/v1/uploads/upl_")
    for headers, begin in ((BELOW, "/voices/v1/jobs?"), ({}, "/v1/jobs?"), (BELOW, "/voices/v1/jobs?")):  # not shared
        link = http.get("/v1/jobs?limit=1", headers=headers).headers["link"]
        assert link.startswith(f"<{live.url}{begin}"), link


def test_the_session_is_sent_there_only(http: httpx.Client, live: Any) -> None:
    token = live.context.settings.token.get_secret_value()
    for headers, path in ((BELOW, "/voices/"), ({}, "/")):
        with httpx.Client(base_url=live.url, headers=headers) as browser:
            signed_in = browser.post("/v1/session", json={"token": token})
            assert f"Path={path};" in signed_in.headers["set-cookie"] + ";"
            signed_out = browser.delete("/v1/session", headers={"Origin": live.url})
            assert signed_out.status_code in {204, 401}


def test_few_routes_are_tried_for_a_request(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    matches = APIRoute.matches
    monkeypatch.setattr(APIRoute, "matches", lambda self, scope: (tried.append(self.path), matches(self, scope))[1])
    for path in ("/livez", "/v1/worker/server", "/v1/retention"):
        tried.clear()
        assert http.get(path).status_code != 404, path
        assert len(tried) < 60, path
