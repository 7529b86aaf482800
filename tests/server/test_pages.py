"""What a browser gets: pages that load nothing from elsewhere, and headers that keep others out."""

import re
from typing import Any

import httpx
import pytest


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert address.startswith("/")
        answer = http.get(address)
        assert answer.status_code == 200, address
    assert "<script>" not in page.text


def test_every_answer_carries_the_headers_that_keep_others_out(http: httpx.Client, live: Any) -> None:
    for path in ("/", "/livez", "/v1/jobs", "/v1/jobs/none", "/nothing", "/static/docs.js"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
    assert http.get("/v1/jobs").headers["cache-control"] == "no-store"


def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    from starlette.datastructures import MutableHeaders

    from server.security_headers import add_security_headers

    plain, secure = MutableHeaders(), MutableHeaders()
    add_security_headers(plain, "/", "http")
    add_security_headers(secure, "/", "https")
    assert "strict-transport-security" not in plain
    assert secure["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/none.js"]
)
def test_only_static_files_are_served_as_such(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404
