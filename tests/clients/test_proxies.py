"""The proxies of the administrator's guide, with its own configurations, on a port that is not 443."""

import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from playwright.sync_api import Page, expect, sync_playwright

from rvc_train.client import Client, connect
from rvc_train.schemas.jobs import JobCreate

pytestmark = pytest.mark.clients

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
TOKEN = "the-token-of-these-tests"
BELOW = "/voices"
BROWSERS = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def documented(language: str) -> list[str]:
    """The blocks of a language in the guide: for a host name of its own, and below a path."""
    found = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "voices.key", "-out", "voices.pem", "-days", "2")
    subprocess.run(["openssl", "req", "-x509", *key, *names], cwd=folder, check=True, capture_output=True)
    return folder


def nginx(folder: Path, port: int, backend: str, certificate: Path, path: str) -> list[str]:
    """The guide's server block, with this test's addresses and folders."""
    block, below = documented("nginx")
    if path:
        block = re.sub(r" +location / \{.*?\}\n", below, block, flags=re.DOTALL)
    block = block.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    block = block.replace("127.0.0.1:8000", backend).replace("/etc/ssl/", f"{certificate}/")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{block}}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def narrow_nginx(folder: Path, port: int, backend: str, certificate: Path, path: str) -> list[str]:
    """The same with nginx's own limit of bodies."""
    command = nginx(folder, port, backend, certificate, path)
    config = folder / "nginx.conf"
    config.write_text(re.sub("client_max_body_size .*?;", "client_max_body_size 1m;", config.read_text()))
    return command


def caddy(folder: Path, port: int, backend: str, certificate: Path, path: str) -> list[str]:
    """The guide's site, with this test's addresses, and the test's certificate in place of a public authority's."""
    site = documented("caddyfile")[1 if path else 0].replace("127.0.0.1:8000", backend)
    site = re.sub(r"^(voices\.)?example\.org", f"https://localhost:{port}", site)
    site = site.replace("{\n", f"{{\n\tbind 127.0.0.1\n\ttls {certificate}/voices.pem {certificate}/voices.key\n", 1)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + site)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@pytest.fixture(
    params=[(nginx, ""), (caddy, ""), (nginx, BELOW), (caddy, BELOW)],
    ids=["nginx", "caddy", "nginx-path", "caddy-path"],
    scope="module",
)
def address(
    request: pytest.FixtureRequest, served: Any, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a proxy before the server."""
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    make: Callable[[Path, int, str, Path, str], list[str]]
    make, path = request.param
    command = make(folder, port, f"127.0.0.1:{served.port}", certificate, path)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={"PATH": "/usr/sbin:/usr/bin", "HOME": str(folder)}
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"https://localhost:{port}{path}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def browser(address: str, certificate: Path) -> Iterator[httpx.Client]:
    """A client that sends what a browser sends: the session's cookie, and Origin with each change."""
    trust = ssl.create_default_context(cafile=str(certificate / "voices.pem"))
    origin = str(httpx.URL(address).copy_with(path=""))
    with httpx.Client(base_url=address, verify=trust, headers={"Origin": origin}, timeout=30) as http:
        assert http.post("/v1/session", json={"token": TOKEN}).status_code == 204
        yield http


def test_a_signed_in_browser_reads_and_writes(browser: httpx.Client) -> None:
    assert browser.get("/v1/jobs").status_code == 200
    made = browser.post("/v1/tokens", json={"owner": "anna", "scopes": ["read"]})
    assert made.status_code == 201, made.text
    assert browser.delete("/v1/session").status_code == 204
    assert browser.get("/v1/jobs").status_code == 401


def test_a_page_of_another_origin_writes_nothing(browser: httpx.Client) -> None:
    refused = browser.post(
        "/v1/tokens", json={"owner": "a", "scopes": ["read"]}, headers={"Origin": "https://evil.example"}
    )
    assert refused.status_code == 403


def test_the_page_its_files_and_all_addresses_stay_at_their_place(browser: httpx.Client, address: str) -> None:
    path = httpx.URL(address).path.rstrip("/")
    for page in ("/", "/new", "/jobs/job_x", "/docs"):
        answer = browser.get(page)
        assert answer.status_code == 200
        for found in re.findall(r'(?:src|href)="([^"#]+)[^"]*"', answer.text):
            url = answer.url.join(found)
            assert url.path.startswith(f"{path}/")
            assert browser.get(url).status_code == 200, url
    made = browser.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
    upload = made.url.join(made.headers["Location"])
    assert browser.head(upload, headers={"Tus-Resumable": "1.0.0"}).headers["Upload-Offset"] == "0"
    assert {cookie.path for cookie in browser.cookies.jar} == {f"{path}/"}


def test_our_own_client_uploads_and_downloads(
    address: str, certificate: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "voices.pem"))
    with connect(address, TOKEN) as http:
        client = Client(http, tmp_path / "memory")
        dataset = client.upload_dataset([recording], f"own-{http.base_url.port}")
        job = client.submit(JobCreate(name="own", dataset_id=dataset.id))
        assert [event.type for event in client.follow_events(job.id)][-1] == "succeeded"
        for artifact in client.artifacts(job.id):
            assert client.download_artifact(artifact, tmp_path).stat().st_size == artifact.size


def test_tus_js_client_goes_through(
    address: str, certificate: Path, run_client: Callable[..., str], node_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).with_name("upload.mjs"), node_folder)
    (tmp_path / "zeros").write_bytes(bytes(1_000_000))
    variables = {"URL": address, "NODE_EXTRA_CA_CERTS": str(certificate / "voices.pem")}
    options = '{"chunkSize": 300000}'
    done = json.loads(run_client("node", "upload.mjs", tmp_path / "zeros", options, cwd=node_folder, **variables))
    assert (done["error"], done["statuses"]) == (None, {"201": 1, "204": 4})
    assert done["url"].startswith(f"{address}/v1/uploads/")


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A tab of Chromium, in which no request may leave the server's place."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(ignore_https_errors=True, locale="en-US").new_page()
        strays: list[str] = []
        page.on(
            "request",
            lambda request: None if request.url.startswith((address, "blob:", "data:")) else strays.append(request.url),
        )
        page.on(
            "response", lambda answer: strays.append(f"{answer.status} {answer.url}") if answer.status == 404 else None
        )
        yield page
        browser.close()
    assert strays == []


@pytest.mark.parametrize("address", [(nginx, BELOW), (caddy, BELOW)], ids=["nginx-path", "caddy-path"], indirect=True)
def test_the_page_walks_from_the_recording_to_the_voice(page: Page, address: str, recording: Path) -> None:
    seconds = 60_000
    page.goto(f"{address}/new")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{address}/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached(timeout=seconds)  # its script has run
    page.locator("#choose-files").set_input_files(recording)
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=seconds)
    page.get_by_label("Name of the voice").fill("anna")
    page.locator("input[name=where][value=here]").check()  # needs no downloads
    page.locator("#submit").click()
    page.wait_for_url(f"{address}/jobs/job_*")
    expect(page.locator("#status")).to_have_text("Ready", timeout=seconds)
    expect(page.locator("#log")).to_contain_text("it begins")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.path().stat().st_size > 0
    page.locator("a.brand").click()
    page.wait_for_url(f"{address}/")
    page.get_by_role("link", name="anna").first.click()
    page.wait_for_url(f"{address}/voices/anna")
    page.get_by_role("link", name="Version 1").click()
    page.wait_for_url(f"{address}/jobs/job_*")
    page.locator("#sign-out").click()
    page.wait_for_url(f"{address}/sign-in*")


@pytest.mark.parametrize("address", [(narrow_nginx, BELOW)], ids=["nginx-path-1m"], indirect=True)
def test_our_client_and_the_page_upload_in_pieces_that_the_proxy_takes(
    page: Page, address: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = tmp_path / "takes"
    takes.mkdir()
    for number in range(2):
        (takes / f"{number}.wav").write_bytes(b"".join(_silence(3_000_000 + 2 * number)))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "voices.pem"))
    done: list[int] = []
    with connect(address, TOKEN) as http:
        client = Client(http, tmp_path / "memory")
        dataset = client.upload_dataset([takes], "narrow", progress=lambda sent, total: done.append(sent))
        assert dataset.size == done[-1] > 6_000_000
    (takes / "2.wav").write_bytes(b"".join(_silence(3_000_004)))
    page.goto(f"{address}/new")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{address}/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached(timeout=60_000)
    page.locator("#choose-folder").set_input_files(takes)
    expect(page.locator("#report-state")).to_have_text(re.compile("sable"), timeout=60_000)


@pytest.mark.parametrize("address", [(nginx, BELOW), (caddy, BELOW)], ids=["nginx-path", "caddy-path"], indirect=True)
def test_a_request_tried_in_the_documentation_goes_below_the_path(page: Page, address: str) -> None:
    page.goto(f"{address}/docs")
    probe = page.locator(".opblock", has=page.locator("[data-path='/livez']"))
    probe.locator(".opblock-summary-control").click(timeout=60_000)
    probe.get_by_role("button", name="Try it out").click()
    probe.get_by_role("button", name="Execute").click()
    expect(probe.locator(".request-url")).to_contain_text(f"{address}/livez")
    expect(probe.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_without_a_token_nothing_is_read_through_the_proxy(address: str, certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate / "voices.pem"))
    with httpx.Client(base_url=address, verify=trust) as http:
        assert http.get("/v1/jobs").status_code == 401


def test_recordings_go_up_events_come_at_once_and_the_voice_comes_down_in_parts(
    browser: httpx.Client, served: Any, recording: Path
) -> None:
    large = browser.put("/v1/datasets/silence/content", content=iter([*_silence(20_000_000)]))  # without a length
    assert large.is_success, large.text
    upload = browser.put("/v1/datasets/anna/content", content=recording.read_bytes())
    assert upload.is_success, upload.text
    job = browser.post("/v1/jobs", json={"name": "anna", "dataset_id": upload.json()["id"]})
    assert job.is_success, job.text
    path = f"/v1/jobs/{job.json()['id']}"
    arrived, last = [], ""
    with connect_sse(browser, "GET", f"{path}/events") as source:
        for event in source.iter_sse():
            arrived.append(time.monotonic())
            last = event.event
    assert last == "end"
    assert arrived[-1] - arrived[0] > 0.5  # the engine trains for a second; from a proxy that buffers all come at once
    (voice,) = (each for each in browser.get(f"{path}/artifacts").json()["data"] if each["kind"] == "voice")
    whole = browser.get(voice["url"]).content
    assert len(whole) == voice["size"]
    part = browser.get(voice["url"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])


def _silence(num_bytes: int) -> Iterator[bytes]:
    """A WAV file of zeros, in chunks."""
    head = io.BytesIO()
    with wave.open(head, "wb") as file:
        file.setparams((1, 2, 40_000, num_bytes // 2, "NONE", ""))
        file.writeframes(b"")
    yield head.getvalue()
    yield from [bytes(1_000_000)] * (num_bytes // 1_000_000)
