"""The guide "from another device at home", walked with its own commands and Caddy's own authority."""

import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
TOKEN = "the-token-of-these-tests"
PAGES = [ROOT / "docs" / "home.md", ROOT / "docs" / "home.zh-CN.md"]


def free_ports(number: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module", params=PAGES, ids=["en", "zh"])
def here(request: pytest.FixtureRequest, served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that puts this test's addresses into a text of the guide, while its Caddy runs; and its text."""
    folder = tmp_path_factory.mktemp("caddy")
    https, http = free_ports(2)
    text = request.param.read_text()

    def fitted(part: str) -> str:
        part = part.replace("http://192.168.1.20:8080", f"http://127.0.0.1:{http}")
        part = part.replace("https://192.168.1.20", f"https://127.0.0.1:{https}")
        return part.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace("/var/lib/caddy", str(folder))

    (site,) = re.findall(r"```caddyfile\n(.*?)```", text, re.DOTALL)
    # Without the endpoint for reloads and the redirect on port 80, which another Caddy here may have.
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n"
    (folder / "Caddyfile").write_text(fitted(site).replace("{\n", options, 1))
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with (folder / "log").open("wb") as log:
        caddy = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={"PATH": "/usr/sbin:/usr/bin", "HOME": str(folder)}
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{http}").is_success:
                    break
            except httpx.TransportError:
                pass
            assert caddy.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield fitted, text
    finally:
        caddy.terminate()
        caddy.wait(20)


def test_a_device_that_trusts_the_authority_uses_the_page_and_the_command_line(here: Any, tmp_path: Path) -> None:
    fitted, text = here
    commands = re.findall(r"^\$ (.*(?:home-ca\.crt).*)$", text, re.MULTILINE)
    assert len(commands) == 2
    program = f"{shlex.quote(sys.executable)} -m rvc_train.cli.main"
    script = "\n".join(fitted(command).replace("rvc-train jobs", f"{program} jobs --json") for command in commands)
    environment = os.environ | {"RVC_TRAIN_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", script], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")

    (public,) = re.findall(r"RVC_TRAIN_PUBLIC_URL=(\S+) rvc-train up", text)
    link = subprocess.run(
        [sys.executable, "-m", "rvc_train.cli.main", "open"],
        check=True,
        env=environment | {"RVC_TRAIN_PUBLIC_URL": fitted(public), "RVC_TRAIN_SERVER": fitted("http://127.0.0.1:8000")},
        capture_output=True,
        text=True,
    ).stdout
    code = re.search(rf"{re.escape(fitted(public))}/sign-in#code=([\w-]+)", link)
    assert code is not None, link
    own = {"Origin": fitted(public)}
    trust = ssl.create_default_context(cafile=str(tmp_path / "home-ca.crt"))
    with httpx.Client(base_url=fitted(public), verify=trust, headers=own) as browser:
        assert browser.get("/sign-in").status_code == 200
        assert browser.post("/v1/session", json={"code": code[1]}).status_code == 204
        assert browser.post("/v1/tokens", json={"owner": "anna", "scopes": ["read"]}).status_code == 201


def test_the_key_of_the_authority_is_not_served(here: Any) -> None:
    fitted, _text = here
    certificate = httpx.get(fitted("http://192.168.1.20:8080/root.key"))
    assert "PRIVATE" not in certificate.text
    assert "BEGIN CERTIFICATE" in certificate.text


def test_both_languages_have_the_same_commands_and_configuration() -> None:
    blocks = [
        re.findall(r"```\w+\n.*?```", re.sub("^#.*$", "", page.read_text(), flags=re.MULTILINE), re.DOTALL)
        for page in PAGES
    ]
    assert blocks[0] == blocks[1]
    assert shutil.which("caddy")
