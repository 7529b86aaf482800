"""Recordings that the server downloads, on the page "New voice": from the address to the report, and cancelled."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.web_files import WebFile, WebFiles, web_files

PHONE = {"width": 390, "height": 844}
SLOW = 60_000
SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def house(open_station: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, token: str) -> Iterator[Any]:
    station = open_station(tmp_path_factory.mktemp("station"), token)
    station.environment["RVC_TRAIN_OUTBOUND_NETWORKS"] = "127.0.0.1"
    station.start_server()
    yield station
    station.close()


@pytest.fixture
def web() -> Iterator[WebFiles]:
    with web_files() as files:
        yield files


def ask(page: Page, addresses: str) -> None:
    if not page.locator("#addresses-form").is_visible():
        page.locator("#addresses > summary").click()
    page.locator("#addresses-urls").fill(addresses)
    page.locator("#addresses-fetch").click()


def test_recordings_are_downloaded_from_addresses_through_a_reload_or_cancelled(
    house: Any, visit: Callable[..., Any], web: WebFiles
) -> None:
    visitor = visit(house)
    visitor.forgive(r"422|404")
    page: Page = visitor.page
    page.goto(f"{house.url}/new")
    expect(page.locator("#settings [data-name=width]")).to_be_attached()
    sounds = sorted(SAMPLES.rglob("*.flac"))[:2]
    gate = threading.Event()
    web.files = {f"/take{n}.flac?key=1": WebFile(each.read_bytes()) for n, each in enumerate(sounds)}
    web.files["/take1.flac?key=1"].gate = gate

    ask(page, "http://192.168.0.1/anna.zip")
    expect(page.locator("#addresses-fault")).to_contain_text("not public")
    ask(page, " ".join(web.url + path for path in web.files))
    expect(page.locator("#fetching-state")).to_contain_text("1 of 2 files")
    expect(page.locator("#report-state")).to_have_text("Being downloaded")
    expect(page.locator("#drop")).to_be_hidden()
    visitor.check_accessible("new voice, while recordings are downloaded")
    page.set_viewport_size(PHONE)
    page.reload()
    expect(page.locator("#fetching-state")).to_contain_text("1 of 2 files")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    gate.set()
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=SLOW)
    expect(page.locator("#fetching")).to_be_hidden()
    expect(page.locator("#files-list tr", has_text="take1.flac")).to_have_count(1)
    expect(page.locator("[name=name]")).to_have_value("take")

    never = threading.Event()
    web.files["/long.flac"] = WebFile(sounds[0].read_bytes(), gate=never)
    ask(page, f"{web.url}/long.flac")
    expect(page.locator("#fetching-name")).to_have_text("long")
    page.locator("#fetching-cancel").click()
    expect(page.locator("#fetching")).to_be_hidden()
    expect(page.locator("#report")).to_be_hidden()
    expect(page.locator("#drop")).to_be_visible()
    never.set()
    assert "long" not in [each.name for each in house.client.datasets()]
    assert "dataset=" not in page.url
