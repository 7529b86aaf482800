"""The whole way in a browser, with the real engine on real recordings: from the token to the two files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

SECONDS_TO_TRAIN = 150
DECODE = """async (address) => {
  const bytes = await (await fetch(address)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes);
  const loudest = sound.getChannelData(0).reduce((most, one) => Math.max(most, Math.abs(one)), 0);
  return { seconds: sound.duration, loudest };
}"""


@pytest.fixture
def house(open_station: Callable[..., Any], token: str, tmp_path: Path) -> Iterator[Any]:
    station = open_station(tmp_path, token)
    station.start_server()
    station.start_worker()
    yield station
    station.close()


def choose(page: Page, name: str, value: str) -> None:
    """Set an option under "all settings"."""
    field = page.locator(f"#settings [data-name={name}]").locator("input, select")
    field.evaluate("(one) => { one.closest('details').open = true; }")
    if field.evaluate("(one) => one.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
        field.blur()


def heard(page: Page) -> dict[str, float]:
    """A preview and its recording, decoded by the browser; and played for a moment."""
    preview = page.locator(".preview").first
    expect(preview).to_have_attribute("data-voice", "ready")
    expect(preview).to_have_attribute("data-recording", "ready")
    preview.get_by_role("button", name="Play").click()
    expect(preview.get_by_role("button", name="Pause")).to_be_visible()
    preview.get_by_text("Recording", exact=True).click()
    expect(preview.get_by_role("button", name="Pause")).to_be_visible()
    preview.get_by_role("button", name="Pause").click()
    assert preview.locator("img").evaluate("async (one) => { await one.decode(); return one.naturalWidth; }") > 100
    address = page.evaluate("async (path) => (await (await fetch(path)).json()).data[0].audio.url", _previews(page))
    found: dict[str, float] = page.evaluate(DECODE, address)
    return found


def _previews(page: Page) -> str:
    return f"/v1/jobs/{page.url.rsplit('/', 1)[1]}/previews"


def test_from_recordings_to_a_voice(house: Any, visit: Any, token: str) -> None:
    visitor = visit(house, signed_in=False)
    page = visitor.page
    visitor.forgive("401")  # who has not signed in yet is sent there
    visitor.open("/new")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()

    expect(page.locator("#settings [data-name=width]")).to_be_attached()
    page.locator("#choose-files").set_input_files(sorted(house.samples.glob("vm-*.flac"))[:2])
    expect(page.locator("#report-state")).to_have_text("Usable", timeout=60_000)
    expect(page.locator("#measures")).to_contain_text("Speech")
    expect(page.locator("#overview canvas")).to_be_visible()
    page.get_by_label("Name of the voice").fill("anna")
    page.locator("input[name=where][value=here]").check()
    page.locator("#all-settings > summary").click()
    for name, value in (("width", "24"), ("batch_size", "4"), ("total_epochs", "1"), ("save_every_epochs", "1")):
        choose(page, name, value)
    choose(page, "evaluate", "always")
    expect(page.locator("#estimate")).to_contain_text("Disk")
    expect(page.locator("#estimate-basis")).not_to_be_empty()
    page.locator("#submit").click()

    expect(page.locator("#name")).to_have_text("anna")
    expect(page.locator("#stages .now")).to_be_visible(timeout=60_000)
    expect(page.locator("#curves canvas").first).to_be_visible(timeout=1000 * SECONDS_TO_TRAIN)
    progress = page.locator("#bar").evaluate("(bar) => bar.value")
    sound = heard(page) if page.locator(".preview").count() else None
    expect(page.locator("#status")).to_have_text("Ready", timeout=1000 * SECONDS_TO_TRAIN)
    assert 0 < progress <= 1
    sound = sound or heard(page)
    assert sound["seconds"] > 0.5
    assert sound["loudest"] > 0
    expect(page.locator("#saves tr.best")).to_have_count(1)
    expect(page.locator("#log")).to_contain_text("epoch")

    offered = {file.name: file.sha256 for file in house.client.artifacts(page.url.rsplit("/", 1)[1])}
    assert {Path(name).suffix for name in offered} == {".pth", ".index", ".json", ".md"}
    page.locator("#all-files > summary").click()
    for row in page.locator("#files tr").all():
        with page.expect_download() as download:
            row.get_by_role("link", name="Download").click()
        name = download.value.suggested_filename
        digest = hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest()
        assert digest == offered[name]
        expect(row).to_contain_text(digest)
