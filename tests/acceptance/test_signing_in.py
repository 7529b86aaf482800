"""`rvc-train up` without a token: the client finds the local one, and a link signs the browser in."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_train.cli.browser import has_display, shared_address

LINK = re.compile(r"http://127\.0\.0\.1:\d+/sign-in#code=([\w-]{43})")


@pytest.fixture
def local_station(tmp_path: Path, open_station: Callable[..., Any]) -> Iterator[Any]:
    """One whose server has no RVC_TRAIN_TOKEN, and whose user has a config folder of their own."""
    station = open_station(tmp_path, None)
    station.environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    yield station
    station.close()


@contextlib.contextmanager
def up_on_a_terminal(station: Any, *words: str, **environment: str) -> Iterator[Callable[[str], str]]:
    """`rvc-train up` on a terminal of its own; gives a function that waits for a text in its output."""
    terminal, side = pty.openpty()
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--port", str(station.port), *words]
    up = subprocess.Popen(command, env=station.environment | environment, stdin=side, stdout=side, stderr=side)
    os.close(side)
    shown = ""

    def wait_for(pattern: str) -> str:
        nonlocal shown
        while not re.search(pattern, shown):
            shown += os.read(terminal, 4096).decode(errors="replace").replace("\r\n", "\n")
        return shown

    try:
        yield wait_for
    finally:
        up.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the terminal's end
            while os.read(terminal, 4096):
                pass
        up.wait(60)
        os.close(terminal)


def test_the_first_up_on_a_desktop_opens_the_page_signed_in_and_every_other_one_prints_a_link(
    local_station: Any, tmp_path: Path
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    desktop = {"DISPLAY": ":7", "BROWSER": str(browser), "SSH_CONNECTION": "", "SSH_TTY": ""}
    with up_on_a_terminal(local_station, **desktop) as wait_for:
        assert "/sign-in" not in wait_for("opened http://127")
        (opened,) = (tmp_path / "opened").read_text().splitlines()
        code = LINK.fullmatch(opened)
        assert code is not None
        answer = httpx.post(f"{local_station.url}/v1/session", json={"code": code[1]})
        assert answer.status_code == 204
    with up_on_a_terminal(local_station, **desktop) as wait_for:
        shown = wait_for("sign-in#code=[^\n]*\n")
        assert LINK.search(shown)
        assert '"event"' not in shown  # lines of the log for programs, which would soon hide the link
        assert len((tmp_path / "opened").read_text().splitlines()) == 1


def test_up_as_a_service_prints_no_link_and_the_client_finds_the_token(local_station: Any) -> None:
    log = local_station.folder / "up.log"
    command = [sys.executable, "-m", "rvc_train.cli.main", "up", "--port", str(local_station.port)]
    with log.open("wb") as file:
        up = subprocess.Popen(
            command, env=local_station.environment | {"DISPLAY": ":7"}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        local_station.wait_until(
            lambda: f"rvc-train open --server {local_station.url}" in log.read_text(), "server and worker", 60
        )
        assert local_station.cli("jobs").returncode == 0
        shown = local_station.cli("token", "show").stdout.strip()
        headers = {"Authorization": f"Bearer {shown}"}
        assert httpx.get(f"{local_station.url}/v1/me", headers=headers).json()["owner"] == "local"
        link = local_station.cli("open").stdout
        assert LINK.search(link)
        assert set(json.loads(local_station.cli("open", "--json").stdout)) == {"link"}
    finally:
        up.terminate()
        up.wait(60)
    assert not LINK.search(log.read_text())
    assert shown not in log.read_text()


def test_beyond_loopback_up_says_once_what_opens_it_and_the_server_alone_refuses(local_station: Any) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - what this is about
    with up_on_a_terminal(local_station, "--host", everywhere, "--no-browser") as wait_for:
        shown = wait_for("sign-in#code=[^\n]*\n")
        assert shown.count("other machines reach this server") == 1
        shown = wait_for("from another device, within ten minutes, at [^\n]*\n[█▀▄ \n]*\n[█▀▄ ]+\n")
        assert f"http://{own_address()}:{local_station.port}/sign-in#code=" in shown
        assert local_station.cli("jobs").returncode == 0
        assert httpx.get(f"{local_station.url}/v1/jobs").status_code == 401


def own_address() -> str:
    """The address of this machine that other machines see."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.200", 9))  # sends nothing
        return str(probe.getsockname()[0])


def test_up_on_the_machines_own_address_asks_no_proxy_and_its_link_signs_another_device_in(local_station: Any) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "[::1]"}
    with up_on_a_terminal(local_station, "--host", own_address(), "--no-browser", **proxy) as wait_for:
        shown = wait_for("from another device, within ten minutes, at [^\n]*\n")
    link = re.search(r"from another device.*(http://[^\n]*)/sign-in#code=([\w-]{43})", shown)
    assert link is not None
    assert link[1] == f"http://{own_address()}:{local_station.port}"


@pytest.mark.parametrize(
    ("host", "environment", "expected"),
    [
        ("127.0.0.1", {}, None),
        ("::1", {}, None),
        ("192.168.1.20", {}, "http://192.168.1.20:8000"),
        ("fd00::7", {}, "http://[fd00::7]:8000"),
        ("studio.lan", {}, "http://studio.lan:8000"),
        ("127.0.0.1", {"RVC_TRAIN_PUBLIC_URL": "https://studio.lan/"}, "https://studio.lan"),
    ],
)
def test_other_devices_get_the_address_that_they_can_reach(
    host: str, environment: dict[str, str], expected: str | None
) -> None:
    assert shared_address(host, 8000, environment) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({}, False),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, False),
        ({"DISPLAY": ":10", "SSH_TTY": "/dev/pts/1"}, False),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_a_browser_is_opened_where_its_user_would_see_it(environment: dict[str, str], expected: bool) -> None:
    assert has_display(environment) is expected


def test_with_rvc_train_token_set_the_link_is_made_with_it(station: Any) -> None:
    """As in a container: `docker compose exec server rvc-train open`."""
    station.start_server()
    done = station.cli("open")
    code = LINK.search(done.stdout)
    assert code is not None, done.stderr
    assert httpx.post(f"{station.url}/v1/session", json={"code": code[1]}).status_code == 204


def test_where_no_server_of_the_user_has_run_there_is_no_token_to_show(local_station: Any) -> None:
    done = local_station.cli("token", "show")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no token for http://127.0.0.1" in done.stderr
