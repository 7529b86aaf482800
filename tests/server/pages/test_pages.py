"""Pages that load nothing from other hosts, and security headers."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

PAGES = Path(__file__).parents[3] / "server" / "pages"
SHELLS = ["/", "/new", "/jobs/job_x", "/voices/anna", "/shared/secret", "/server", "/sign-in"]
SOURCES = [
    path for folder in ("templates", "static/js", "static/css") for path in sorted((PAGES / folder).rglob("*.*"))
]


@pytest.mark.parametrize("path", [*SHELLS, "/docs"])
def test_pages_load_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for address in re.findall(r'(?:src|href)="([^"#]+)[^"]*"', page.text):
        answer = http.get(urljoin(path, address))  # an address of another host would be unchanged
        assert answer.status_code == 200, address
    assert "<script>" not in page.text


def test_no_script_needs_what_browsers_keep_from_plain_http() -> None:
    for path in SOURCES:
        if path.suffix == ".js":
            code = re.sub(r"//.*|/\*.*?\*/", "", path.read_text())
            assert not re.search(r"crypto\.(randomUUID|subtle)|serviceWorker", code), path


@pytest.mark.parametrize("path", SHELLS)
def test_no_page_allows_scripts_or_styles_inside_itself(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["script-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert re.findall(r"<[^>]+ (?:style|on\w+)=", page.text) == []
    inside = re.findall(r"<script(?![^>]*src=)([^>]*)>", page.text)
    assert inside == [' type="application/json" id="words"'], "data, which no browser runs"


def test_a_page_comes_in_the_readers_language(http: httpx.Client) -> None:
    for request, language, word in (
        ({}, "en", "Voices"),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh", "音色"),
        ({"Accept-Language": "fr, zh;q=0, en;q=0.1"}, "en", "Voices"),
        ({"Accept-Language": ";;q=x,,"}, "en", "Voices"),
        ({"Accept-Language": "zh", "Cookie": "rvc_language=en"}, "en", "Voices"),
        ({"Accept-Language": "zh", "Cookie": "rvc_language=../x"}, "zh", "音色"),
    ):
        page = http.get("/", headers=request)
        assert f'<html lang="{language}">' in page.text
        assert f"<title>{word} · rvc-train</title>" in page.text
        assert page.headers["content-language"] == language


def test_every_language_has_the_same_words_with_the_same_blanks() -> None:
    catalogues = {path.stem: json.loads(path.read_text()) for path in (PAGES / "locales").glob("*.json")}
    assert {"en", "zh"} <= set(catalogues)
    english = catalogues["en"]
    for language, words in catalogues.items():
        mine = {key for key in words if not key.endswith(".help") or key in english}
        assert mine == set(english), f"{language}: {mine ^ set(english)}"
        for key in english:
            assert words[key].strip(), f"{language}: {key}"
            assert set(re.findall(r"\{(\w+)\}", words[key])) == set(re.findall(r"\{(\w+)\}", english[key])), key


def test_every_word_that_a_page_uses_is_there_and_none_is_left_over() -> None:
    text = "\n".join(path.read_text() for path in SOURCES)
    words = set(json.loads((PAGES / "locales" / "en.json").read_text()))
    named = {key for key in re.findall(r"""\bt\(["']([\w./]+)["']""", text) if not key.endswith(".")}
    assert named - words == set()
    # Keys put together in code: `t(`status.${status}`)` in scripts, t("nav." ~ place) in templates.
    begun = set(re.findall(r"""[`"']([a-z_]+\.(?:[\w.]+\.)?)(?:\$\{|["'] ~)""", text))
    counted = set(re.findall(r"""\bcount\(["']([\w.]+)["']""", text))
    titles = {f"{path.stem}.title" for path in (PAGES / "templates").glob("*.html")}
    used = named | {f"{key}.{form}" for key in counted for form in ("one", "other")} | titles | {"language.name"}
    quoted = {key for key in words if f'"{key}"' in text}
    left_over = {key for key in words - used - quoted if not key.startswith(tuple(begun))}
    assert left_over == set()


def test_nothing_of_the_pages_names_an_address_elsewhere() -> None:
    for path in SOURCES:
        found = [url for url in re.findall(r"https?://[^\s\"'`)]*", path.read_text()) if url not in {"https://"}]
        assert found == [], path


def test_static_files_are_asked_about_again_and_seldom_sent_again(http: httpx.Client) -> None:
    first = http.get("/assets/js/voices.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cache-control"] == "no-cache"
    assert http.get("/assets/js/voices.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_static_files_that_a_page_names_are_kept_for_good(http: httpx.Client) -> None:
    named = re.findall(r'(?:src|href)="(/assets/[^"]+)"', http.get("/").text)
    assert len(named) >= 4
    for address in named:
        answer = http.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable", address
    of_another_version = re.sub("/assets/[0-9a-f]+/", "/assets/0123456789abcdef/", named[0])
    assert http.get(of_another_version).headers["cache-control"] == "no-cache"


def test_every_answer_carries_the_headers_that_keep_others_out(http: httpx.Client, live: Any) -> None:
    for path in ("/", "/livez", "/v1/jobs", "/v1/jobs/none", "/nothing", "/static/docs.js"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["permissions-policy"].startswith("microphone=(self), camera=()")
    assert http.get("/v1/jobs").headers["cache-control"] == "no-store"


def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    from starlette.datastructures import MutableHeaders

    from server.middleware.request_context import add_security_headers

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
